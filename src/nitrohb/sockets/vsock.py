# SPDX-License-Identifier: Apache-2.0
"""The machine's own CID, as /dev/vsock tells it (vsock(7), linux/vm_sockets.h)."""

from __future__ import annotations

import os
import sys

from ..addresses import CID_ANY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

VSOCK_DEVICE: Final = "/dev/vsock"

_GET_LOCAL_CID: Final = 0x7B9  # IOCTL_VM_SOCKETS_GET_LOCAL_CID


def read_local_cid(device: str = VSOCK_DEVICE) -> int:
    """Ask the kernel for the CID of this machine.

    A machine may have more than one: as a guest that of its hypervisor's choice, 2 as the host of
    VMs, and 1, the loopback. The kernel names the first of these that there is.

    Args:
        device: The device to ask. No privilege is needed beyond opening it.

    Returns:
        The CID; ``CID_ANY`` if there is none, because no transport is loaded.

    Raises:
        OSError: The device is not there (containers often lack it), may not be opened, or is
            another one.
    """
    import fcntl  # here, because who can listen never asks

    fd = os.open(device, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return int.from_bytes(fcntl.ioctl(fd, _GET_LOCAL_CID, bytes(4)), sys.byteorder)
    finally:
        os.close(fd)


def local_cid() -> int | None:
    """The CID of this machine, or None if there is none or it cannot be told."""
    try:
        cid = read_local_cid()
    except OSError:
        return None
    return None if cid == CID_ANY else cid
