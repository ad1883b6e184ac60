# SPDX-License-Identifier: Apache-2.0
"""Socket activation: the listening sockets that a service manager passed to this process.

The descriptors start at 3. ``LISTEN_FDS`` is their number, ``LISTEN_PID`` the process that they are
for, and ``LISTEN_FDNAMES`` has their names, separated by colons. (Source: sd_listen_fds(3).)
"""

from __future__ import annotations

import os

from ..addresses import InheritedSocket, NamedDescriptor, parse_number
from ..errors import AddressError, ListenError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
"""The variables are for one process, and not for its children."""

_FIRST: Final = 3  # SD_LISTEN_FDS_START of sd_listen_fds(3)
_PID_MAX: Final = 0x7FFFFFFF
_UNNAMED: Final = "unknown"  # as sd_listen_fds_with_names() calls it


def inherited_sockets() -> list[InheritedSocket]:
    """Return the listening sockets that a service manager, such as systemd, passed to this process.

    It only reads environment variables: ``LISTEN_PID``, ``LISTEN_FDS`` and ``LISTEN_FDNAMES``.
    (Source: sd_listen_fds(3).)

    Returns:
        The sockets, in order. The list is empty if there are none, or if ``LISTEN_PID`` is another
        process.

    Raises:
        UsageError: A variable is malformed, or the number of names is wrong.
    """
    return [sock for sock, _ in _with_names()]


def find_named(address: NamedDescriptor) -> InheritedSocket:
    """Return the socket that was passed with a name.

    Raises:
        UsageError: An environment variable is wrong.
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
            f"several sockets with this name were passed in: {', '.join(map(str, found))}",
            "Use a number, or set a different FileDescriptorName= in each socket unit.",
        )
    others = ", ".join(f"{sock} ({name})" for sock, name in passed) or "none"
    why = f"no socket with this name was passed in. Passed in: {others}"
    remedy = "Set the name in a systemd socket unit: FileDescriptorName="
    if passed:
        remedy = f"Use a name from LISTEN_FDNAMES. {remedy}"
    raise ListenError(str(address), None, why, remedy)


def _with_names() -> list[tuple[InheritedSocket, str]]:
    if not _are_ours() or "LISTEN_FDS" not in os.environ:
        return []
    # The limit keeps a wrong number from filling the memory.
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
            f"LISTEN_FDNAMES has {len(names)} names, but LISTEN_FDS is {count}\n"
            "Set one name for each socket, or unset LISTEN_FDNAMES."
        )
    return names


def _number(variable: str, lowest: int, highest: int) -> int:
    text = os.environ[variable]
    try:
        return parse_number("number", text, highest, lowest)
    except AddressError as error:
        raise UsageError(
            f"{variable} of the environment: {error}\n"
            "Unset it, or let a service manager set it (socket activation)."
        ) from None
