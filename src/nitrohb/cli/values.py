# SPDX-License-Identifier: Apache-2.0
"""How the values of options are read, and checked."""

from __future__ import annotations

import argparse
import math
import os

from ..addresses import parse_address, parse_number
from ..errors import AddressError, UsageError
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

# Each of these raises ArgumentTypeError for what it cannot read.


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
    """Read where an interface is."""
    from ..api.address import parse_api_address  # few need it

    return _parsed(parse_api_address, text)


def count(text: str) -> int:
    """Read a number from 1 up."""
    try:
        number = parse_number("number", text)
    except AddressError:
        number = 0
    if number == 0:
        raise argparse.ArgumentTypeError(f"expected a number from 1 up, got {text!r}")
    return number


def cid(text: str) -> int:
    """Read a CID."""
    return _parsed(lambda number: parse_number("CID", number), text)


def seconds(text: str, or_else: str = "") -> float:
    """Read seconds, more than 0."""
    if not 0 < (number := _number(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"expected seconds, more than 0{or_else}, got {text!r}")
    return number


def age(text: str) -> float:
    """Read seconds, at least 0."""
    if not 0 <= (number := _number(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"expected seconds, at least 0, got {text!r}")
    return number


def _number(text: str) -> float:
    try:  # float() also reads 1_0, inf, and the digits of other scripts
        return float(text if set(text) <= set("0123456789.e-") else "nan")
    except ValueError:
        return math.nan


def timeout(text: str) -> float | str:
    """Read seconds, or ``auto``."""
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
    """Read a group, and return its number."""
    import grp  # few need it

    return _id("group", lambda: grp.getgrnam(text).gr_gid, text)


def user(text: str) -> int:
    """Read a user, and return the number."""
    import pwd  # few need it

    return _id("user", lambda: pwd.getpwnam(text).pw_uid, text)


def _id(kind: str, find_name: Callable[[], int], text: str) -> int:
    try:
        return find_name()
    except KeyError:
        pass
    if text.isascii() and text.isdigit() and len(text) <= 10 and int(text) < _ID_MAX:
        return int(text)
    raise argparse.ArgumentTypeError(f"expected the name or number of a {kind}, got {text!r}")


# Each of these raises UsageError.


def descriptor(option: str, text: str) -> int:
    """A descriptor to write to. Later a socket of nitrohb can have its number."""
    import fcntl  # few need it

    number = parse_number(f"descriptor of {option}", text, _FD_MAX)
    try:
        can_write = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
    except OSError:
        can_write = False
    if number <= _STDERR or not can_write:
        raise UsageError(
            f"{option}: {number} is not a descriptor from 3 up that is open for writing."
            " Open one, as in: nitrohb ... 3>FILE"
        )
    os.set_inheritable(number, False)  # it is not for the command of run
    return number


def image_size(path: str) -> int:
    """The size of an enclave's image, in bytes."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            size, magic = os.fstat(fd).st_size, os.read(fd, len(_EIF_MAGIC))
        finally:
            os.close(fd)
    except OSError as error:
        raise UsageError(f"--eif {quoted(path)} cannot be read: {error.strerror}") from error
    if magic != _EIF_MAGIC:
        raise UsageError(f"--eif {quoted(path)} is not an enclave image: it has no EIF header")
    return size
