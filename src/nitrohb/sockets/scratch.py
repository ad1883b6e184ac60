# SPDX-License-Identifier: Apache-2.0
"""A temporary directory for a short-lived socket."""

import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress


@contextmanager
def scratch_path(name: str) -> Generator[str]:
    """Create a temporary directory for one file, and remove both at the end of the block.

    (``tempfile.TemporaryDirectory`` cannot clean up when the process has no descriptor left.)

    Yields:
        The path of the file.

    Raises:
        OSError: The directory cannot be created.
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
        # tempfile says "no usable directory" for any failure. Raise EMFILE or ENFILE if it is that.
        os.close(os.open("/", os.O_RDONLY | os.O_CLOEXEC))
        raise
