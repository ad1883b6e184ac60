# SPDX-License-Identifier: Apache-2.0
"""Functions that read and check the values of options."""

from __future__ import annotations

import argparse
import math
import os
from contextlib import suppress

from ..addresses import parse_address, parse_number
from ..errors import AddressError, UsageError, described
from ..sockets.opening import NOWHERE
from .output import quoted

# This module is loaded before the script listens: see cli/__init__.py.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final, TypeVar

    from ..addresses import Address
    from ..api.address import ApiAddress

    T = TypeVar("T")

_STDERR: Final = 2
_FD_MAX: Final = 2**31 - 1
_EIF_MAGIC: Final = b".eif"
_ID_MAX: Final = 2**32 - 1  # of users and groups: chown(2) takes -1 for no change

# Each of these raises ArgumentTypeError for a wrong value.


def _parsed(parse: Callable[[str], T], text: str) -> T:
    try:
        return parse(text)
    except AddressError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def address(text: str) -> Address:
    """Read an address."""
    return _parsed(parse_address, text)


def listen(text: str) -> Address | str:
    """Read a listen address, or ``none``."""
    return text if text == NOWHERE else address(text)


def api(text: str) -> ApiAddress:
    """Read the address of an HTTP interface."""
    from ..api.address import parse_api_address  # rarely needed

    return _parsed(parse_api_address, text)


def count(text: str) -> int:
    """Read a number, at least 1."""
    return _parsed(lambda number: parse_number("number", number, lowest=1), text)


def cid(text: str) -> int:
    """Read a CID."""
    return _parsed(lambda number: parse_number("CID", number), text)


def seconds(text: str, or_else: str = "") -> float:
    """Read a number of seconds, more than 0."""
    if not 0 < (number := _number(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"expected seconds, more than 0{or_else}, got {text!r}")
    return number


def age(text: str) -> float:
    """Read a number of seconds, at least 0."""
    if not 0 <= (number := _number(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"expected seconds, at least 0, got {text!r}")
    return number


def _number(text: str) -> float:
    with suppress(ValueError):
        if set(text) <= set("0123456789.e-"):  # float() also reads 1_0, inf, and foreign digits
            return float(text)
    return math.nan


def timeout(text: str) -> float | str:
    """Read a number of seconds, or ``auto``."""
    return text if text == "auto" else seconds(text, ", or auto")


def console(text: str) -> Address | str:
    """Read the address of a console, or ``auto``."""
    return text if text == "auto" else address(text)


def mode(text: str) -> int:
    """Read the permissions of a file, in octal."""
    if not text or len(text) > 4 or set(text) - set("01234567") or int(text, 8) > 0o777:
        raise argparse.ArgumentTypeError(f"expected an octal mode from 0 to 777, got {text!r}")
    return int(text, 8)


def group(text: str) -> int:
    """Read the name or number of a group, and return the number."""
    import grp  # rarely needed

    return _id("group", lambda: grp.getgrnam(text).gr_gid, text)


def user(text: str) -> int:
    """Read the name or number of a user, and return the number."""
    import pwd  # rarely needed

    return _id("user", lambda: pwd.getpwnam(text).pw_uid, text)


def _id(kind: str, find_name: Callable[[], int], text: str) -> int:
    with suppress(KeyError):
        return find_name()
    if text.isascii() and text.isdigit() and len(text) <= 10 and int(text) < _ID_MAX:
        return int(text)
    raise argparse.ArgumentTypeError(f"expected the name or number of a {kind}, got {text!r}")


# Each of these raises UsageError.


def descriptor(option: str, text: str) -> int:
    """Read a descriptor, and check now that it is open: later a socket can get its number."""
    import fcntl  # rarely needed

    try:
        number = parse_number("descriptor", text, _FD_MAX, _STDERR + 1)
        flags = fcntl.fcntl(number, fcntl.F_GETFL)
    except AddressError as error:
        raise _bad_descriptor(option, str(error)) from None
    except OSError as error:
        raise _bad_descriptor(option, f"descriptor {text} is not open") from error
    if flags & os.O_ACCMODE == os.O_RDONLY:
        raise _bad_descriptor(option, f"descriptor {text} is open only for reading")
    os.set_inheritable(number, False)  # the command of run does not need it
    return number


def _bad_descriptor(option: str, why: str) -> UsageError:
    return UsageError(f"{option}: {why}\nOpen one, for example: nitrohb ... 3>FILE")


def image_size(path: str) -> int:
    """Return the size of an enclave image, in bytes."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            size, magic = os.fstat(fd).st_size, os.read(fd, len(_EIF_MAGIC))
        finally:
            os.close(fd)
    except OSError as error:
        why = f"cannot read --eif {quoted(path)}: {described(error)}"
        raise UsageError(f"{why}\nName an image that you can read.") from error
    if magic != _EIF_MAGIC:
        raise UsageError(
            f"--eif {quoted(path)} is not an enclave image: it has no EIF header\n"
            "Name the file that nitro-cli build-enclave has written."
        )
    return size
