# SPDX-License-Identifier: Apache-2.0
"""The CID of this machine, from /dev/vsock (vsock(7), linux/vm_sockets.h)."""

import fcntl
import os
import sys
from typing import Final

VSOCK_DEVICE: Final = "/dev/vsock"

_GET_LOCAL_CID: Final = 0x7B9  # IOCTL_VM_SOCKETS_GET_LOCAL_CID


def read_local_cid(device: str = VSOCK_DEVICE) -> int:
    """Return the CID of this machine.

    A machine can have several: one from its hypervisor if it is a guest, 2 if it is a host of VMs,
    and 1 for the loopback. The kernel returns the first of these.

    Returns:
        The CID; ``CID_ANY`` if there is none.

    Raises:
        OSError: The device does not exist (as in many containers), or cannot be opened or asked.
    """
    fd = os.open(device, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return int.from_bytes(fcntl.ioctl(fd, _GET_LOCAL_CID, bytes(4)), sys.byteorder)
    finally:
        os.close(fd)
