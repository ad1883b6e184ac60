# SPDX-License-Identifier: Apache-2.0
"""Socket activation: the listening sockets that a service manager has passed to this process.

Their descriptors begin at 3. ``LISTEN_FDS`` is their number, ``LISTEN_PID`` the process that they
are meant for, and ``LISTEN_FDNAMES`` their names, separated by colons. (Source: sd_listen_fds(3).)
"""

from __future__ import annotations

import os

from ..addresses import InheritedSocket, NamedDescriptor, parse_number
from ..errors import AddressError, ListenError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
"""The variables that are meant for one process, and not for those that it starts."""

_FIRST: Final = 3  # SD_LISTEN_FDS_START of sd_listen_fds(3)
_PID_MAX: Final = 0x7FFFFFFF
_UNNAMED: Final = "unknown"  # as sd_listen_fds_with_names() calls it


def inherited_sockets() -> list[InheritedSocket]:
    """The sockets that a service manager, such as systemd, has passed to this process.

    It only reads the environment.

    Returns:
        The sockets, in order. Empty if there are none, or if they are meant for another process
        (``LISTEN_PID``).

    Raises:
        UsageError: A variable makes no sense.
    """
    return [sock for sock, _ in _with_names()]


def find_named(address: NamedDescriptor) -> InheritedSocket:
    """The socket that was passed under a name.

    Raises:
        UsageError: A variable of the environment makes no sense.
        ListenError: No socket has this name, or several have it.
    """
    passed = _with_names()
    found = [sock for sock, name in passed if name == address.name]
    if len(found) == 1:
        return found[0]
    if found:
        raise ListenError(
            str(address),
            None,
            f"several sockets of this name were passed in: {', '.join(map(str, found))}",
            "Name one by its number, or give each its own FileDescriptorName= in a socket unit.",
        )
    others = ", ".join(f"{sock} ({name})" for sock, name in passed) or "none at all"
    raise ListenError(
        str(address),
        None,
        f"no socket of this name was passed in; those that were: {others}",
        "The names are in LISTEN_FDNAMES; in a systemd socket unit FileDescriptorName= sets one.",
    )


def _with_names() -> list[tuple[InheritedSocket, str]]:
    if not _are_ours() or "LISTEN_FDS" not in os.environ:
        return []
    # No process has more descriptors: a wrong number must not fill the memory.
    count = _number("LISTEN_FDS", 1, os.sysconf("SC_OPEN_MAX") - _FIRST)
    sockets = map(InheritedSocket, range(_FIRST, _FIRST + count))
    return list(zip(sockets, _names(count), strict=True))


def _are_ours() -> bool:
    return "LISTEN_PID" in os.environ and _number("LISTEN_PID", 1, _PID_MAX) == os.getpid()


def _names(count: int) -> list[str]:
    if "LISTEN_FDNAMES" not in os.environ:
        return [_UNNAMED] * count
    names = os.environ["LISTEN_FDNAMES"].split(":")
    if len(names) != count:
        raise UsageError(
            f"LISTEN_FDNAMES has {len(names)} names for the {count} sockets of LISTEN_FDS:"
            " whoever starts this process must set both alike, or no names"
        )
    return names


def _number(variable: str, lowest: int, highest: int) -> int:
    text = os.environ[variable]
    try:
        number = parse_number("number", text, highest)
    except AddressError:
        number = -1
    if number < lowest:
        raise UsageError(
            f"{variable} of the environment is {text!r}: expected a number from {lowest} to"
            f" {highest}, as a service manager sets it for socket activation"
        )
    return number
