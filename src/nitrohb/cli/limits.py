# SPDX-License-Identifier: Apache-2.0
"""``--timeout``: how long to wait, as a number or as nitro-cli would."""

from __future__ import annotations

import os
import stat

from ..errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

__all__ = ["time_limit"]


def time_limit(args: argparse.Namespace) -> float:
    """The seconds that ``--timeout`` allows; infinite without it.

    Raises:
        UsageError: ``--timeout auto``, ``--eif`` and ``--memory`` are not there all three, or the
            image cannot be read.
    """
    if args.timeout is not None:
        if args.eif is not None or args.memory is not None:
            raise UsageError("--eif and --memory are of no use without --timeout auto")
        return float(args.timeout)
    if args.eif is None or args.memory is None:
        raise UsageError("--timeout auto needs both --eif PATH and --memory MIB")
    from ..timeouts import boot_timeout  # here, for those who wait as long as they said

    return boot_timeout(_size(args.eif), args.memory)


def _size(path: str) -> int:
    from .quoting import quoted

    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"--eif {quoted(path)} cannot be read: {error.strerror}") from error
    try:
        status = os.fstat(fd)
    finally:
        os.close(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_size == 0:
        raise UsageError(f"--eif {quoted(path)} is no image: it must be a file, and not empty")
    return status.st_size
