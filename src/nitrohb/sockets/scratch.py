# SPDX-License-Identifier: Apache-2.0
"""A place for a socket that exists only for a moment."""

import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress


@contextmanager
def scratch_path(name: str) -> Generator[str]:
    """Make a temporary directory, for one file.

    tempfile.TemporaryDirectory cannot clear up in a process that has no descriptor left; this can.

    Args:
        name: The name of the file, which is deleted at the end of the block if it is there.

    Yields:
        The path of the file.

    Raises:
        OSError: The directory cannot be made; EMFILE or ENFILE if a lack of descriptors is why.
    """
    directory = _directory()
    path = os.path.join(directory, name)
    try:
        yield path
    finally:
        with suppress(FileNotFoundError):
            os.unlink(path)
        os.rmdir(directory)


def _directory() -> str:
    try:
        return tempfile.mkdtemp(prefix="nitrohb-")
    except FileNotFoundError:
        # tempfile tries each directory with a file in it, and says of whatever keeps it from making
        # one that no directory is usable.
        os.close(os.open("/", os.O_RDONLY | os.O_CLOEXEC))
        raise
