# SPDX-License-Identifier: Apache-2.0
"""Addresses as objects and as text.

=====================  =========================================================================
``vsock::9000``        AF_VSOCK, port 9000 of every local CID (as systemd spells it)
``vsock:3:9000``       AF_VSOCK, port 9000 of CID 3
``unix:/run/x.sock``   a Unix socket
``hybrid:/vm4:9000``   a VM whose vsock is a Unix socket on the host (Firecracker, Cloud
                       Hypervisor, vhost-device-vsock with ``uds-path=/vm4``): the VM's
                       connections to port 9000 arrive at the Unix socket ``/vm4_9000``
``fd:3``               an inherited socket that is already listening (socket activation)
``fd:heartbeat``       the same, by the name that the service manager gave it
=====================  =========================================================================

Parsing and ``str()`` are exact inverses: ``str(parse_address(text)) == text`` for every valid text.
So you can search a log for an address. An address equals its text, and has the same hash:
``beat.address == "unix:enclave.sock"``.
"""

from __future__ import annotations

import os

from .errors import AddressError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final, NoReturn

CID_ANY: Final = 0xFFFFFFFF
"""Listen on every local CID (VMADDR_CID_ANY of linux/vm_sockets.h). As text: ``vsock::PORT``."""

PORT_ANY: Final = 0xFFFFFFFF
"""bind(2) picks a free port instead (VMADDR_PORT_ANY of linux/vm_sockets.h)."""

_CID_MAX: Final = CID_ANY - 1
# Python truncates a larger port to 32 bits without an error.
_PORT_MAX: Final = 0xFFFFFFFF
_FD_MAX: Final = 0x7FFFFFFF
_NAME_MAX: Final = 255  # of FileDescriptorName=, see systemd.socket(5)
_UNIX_PATH_MAX: Final = 107  # sun_path of unix(7) has 108 bytes with its NUL

_EXPECTED: Final = (
    "expected vsock:[CID]:PORT, unix:PATH, hybrid:PATH:PORT, fd:N or fd:NAME, for example"
    " vsock::9000"
)


_set: Final = object.__setattr__


class _FrozenAddress:
    """Base class of addresses: immutable, equal to its text, and with the same hash.

    A frozen dataclass would take 9 ms to load. ``__match_args__`` has the names of the fields.
    """

    __slots__ = ("_hash",)
    __match_args__ = ()

    _hash: int

    def _fields(self) -> dict[str, object]:
        names: tuple[str, ...] = self.__match_args__
        return {name: getattr(self, name) for name in names}

    def __eq__(self, other: object) -> bool:
        if isinstance(other, _FrozenAddress | str):
            return other is self or str(self) == str(other)
        return NotImplemented

    def __hash__(self) -> int:
        try:
            found = self._hash
        except AttributeError:
            found = hash(str(self))
            _set(self, "_hash", found)
        return found

    def __reduce__(self) -> tuple[type[_FrozenAddress], tuple[object, ...]]:
        return type(self), (*self._fields().values(),)

    def __repr__(self) -> str:
        fields = (f"{name}={value!r}" for name, value in self._fields().items())
        return f"{type(self).__name__}({', '.join(fields)})"

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is frozen")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is frozen")


class VsockAddress(_FrozenAddress):
    """An AF_VSOCK address.

    Attributes:
        cid: The context identifier, 0 to 2**32 - 2, or ``CID_ANY``.
        port: The port, 0 to 2**32 - 1.

    Raises:
        AddressError: A number is out of range.
    """

    __slots__ = __match_args__ = ("cid", "port")

    cid: int
    port: int

    def __init__(self, cid: int, port: int) -> None:
        if cid != CID_ANY:
            _check_range("CID", cid, _CID_MAX)
        _check_range("port", port, _PORT_MAX)
        _set(self, "cid", cid)
        _set(self, "port", port)

    def __str__(self) -> str:
        return f"vsock:{'' if self.cid == CID_ANY else self.cid}:{self.port}"


class UnixAddress(_FrozenAddress):
    """A Unix socket in the file system.

    Attributes:
        path: The path, at most 107 bytes. A relative path starts in the current directory.

    Raises:
        AddressError: The path is empty, too long, a pattern (``*`` or ``?``), an abstract name
            (``@``), or contains a control character.
    """

    __slots__ = __match_args__ = ("path",)

    path: str

    def __init__(self, path: str) -> None:
        _check_path(path, path)
        _set(self, "path", path)

    def __str__(self) -> str:
        return f"unix:{self.path}"


class HybridAddress(_FrozenAddress):
    """A port of a VM whose vsock is a Unix socket on the host ("hybrid vsock").

    When the guest connects to a port, the VMM connects to the Unix socket ``{vm_path}_{port}``, and
    sends no preamble. (Source: docs/vsock.md of Firecracker, which Cloud Hypervisor and
    vhost-device-vsock follow.)

    Attributes:
        vm_path: The socket path that is configured in the VMM.
        port: The vsock port that the guest connects to, 0 to 2**32 - 1.

    Raises:
        AddressError: The port is out of range, or ``UnixAddress`` would reject the path.
    """

    __slots__ = __match_args__ = ("vm_path", "port")

    vm_path: str
    port: int

    def __init__(self, vm_path: str, port: int) -> None:
        _check_range("port", port, _PORT_MAX)
        _set(self, "vm_path", vm_path)
        _set(self, "port", port)
        _check_path(vm_path, self.path)

    @property
    def path(self) -> str:
        """The path of the Unix socket to listen on."""
        return f"{self.vm_path}_{self.port}"

    def __str__(self) -> str:
        return f"hybrid:{self.vm_path}:{self.port}"


class InheritedSocket(_FrozenAddress):
    """A listening socket that this process inherited, for example by socket activation.

    Attributes:
        fd: The file descriptor, 0 to 2**31 - 1.

    Raises:
        AddressError: The number is out of range.
    """

    __slots__ = __match_args__ = ("fd",)

    fd: int

    def __init__(self, fd: int) -> None:
        _check_range("file descriptor", fd, _FD_MAX)
        _set(self, "fd", fd)

    def __str__(self) -> str:
        return f"fd:{self.fd}"


class NamedDescriptor(_FrozenAddress):
    """A listening socket that a service manager passed to this process with a name.

    In systemd, the name is ``FileDescriptorName=`` of the socket unit, or else the name of the
    unit. (Source: systemd.socket(5), sd_listen_fds(3).)

    Attributes:
        name: At most 255 ASCII characters, without colons and control characters. It begins with a
            letter, so it cannot be a misspelt number.

    Raises:
        AddressError: The text is not such a name.
    """

    __slots__ = __match_args__ = ("name",)

    name: str

    def __init__(self, name: str) -> None:
        if not (_is_name(name) and name[0].isalpha()):
            raise AddressError(
                f"expected a name of at most {_NAME_MAX} ASCII characters that begins with a letter"
                " and has no colons or control characters"
            )
        _set(self, "name", name)

    def __str__(self) -> str:
        return f"fd:{self.name}"


Address = VsockAddress | UnixAddress | HybridAddress | InheritedSocket | NamedDescriptor


def parse_address(text: str) -> Address:
    """Return the address that a text names, for example ``"vsock::9000"``.

    Args:
        text: The address: ``vsock:CID:PORT``, ``vsock::PORT``, ``unix:PATH``,
            ``hybrid:PATH:PORT``, ``fd:N`` or ``fd:NAME``.

    Returns:
        The address. ``str()`` of it is ``text``.

    Raises:
        AddressError: The text is not an address. The message quotes it and says what was expected.
    """
    scheme, colon, rest = text.partition(":")
    parse = _PARSERS.get(scheme)
    if not colon or parse is None:
        raise AddressError(f"{text!r} is not an address: {_guess(text) or _EXPECTED}")
    try:
        return parse(rest)
    except AddressError as error:
        raise AddressError(f"{text!r} is not an address: {error}") from None


def as_address(value: object) -> Address:
    """Return the address that a caller passed as text or as an object, or raise UsageError."""
    if isinstance(value, str):
        return parse_address(value)
    if not isinstance(value, Address):
        raise UsageError(f"{value!r} is not an address\nPass one as text or as an object.")
    return value


def _guess(text: str) -> str:
    """Say how to write a bare port or path. Empty if the text is neither."""
    if text.isascii() and text.isdigit():
        scheme, rest, meaning = "vsock", f":{text}", f"To listen on port {text} of every CID"
    elif text.startswith(("/", "./", "../")):
        scheme, rest, meaning = "unix", text, "For a Unix socket"
    else:
        return ""
    try:
        _PARSERS[scheme](rest)
    except AddressError as error:
        return str(error)
    return f"it has no scheme\n{meaning}, write {scheme}:{rest}"


def parse_number(what: str, text: str, highest: int = _CID_MAX, lowest: int = 0) -> int:
    """Return a decimal number: ASCII digits, without a leading zero.

    Args:
        what: What to call the number in a message.
        text: The number.
        highest: The largest accepted number.
        lowest: The smallest accepted number.

    Raises:
        AddressError: The text is not such a number.
    """
    decimal = text.isascii() and text.isdigit() and (text == "0" or text[0] != "0")
    if not decimal or len(text) > len(str(highest)) or not lowest <= int(text) <= highest:
        _bad_number(what, text, highest, lowest)
    return int(text)


def _parse_vsock(rest: str) -> VsockAddress:
    cid, colon, port = rest.partition(":")
    if not colon:
        port = rest or "9000"
        raise AddressError(
            f"expected vsock:[CID]:PORT\nFor port {port} of every CID, write vsock::{port}."
        )
    return VsockAddress(
        CID_ANY if cid == "" else parse_number("CID", cid, _CID_MAX),
        parse_number("port", port, _PORT_MAX),
    )


def _parse_hybrid(rest: str) -> HybridAddress:
    path, colon, port = rest.rpartition(":")
    if not colon:
        raise AddressError("expected hybrid:PATH:PORT, for example hybrid:/tmp/vm4.vsock:9000")
    return HybridAddress(path, parse_number("port", port, _PORT_MAX))


def _parse_fd(rest: str) -> InheritedSocket | NamedDescriptor:
    if rest[:1].isascii() and rest[:1].isalpha():
        return NamedDescriptor(rest)
    return InheritedSocket(parse_number("file descriptor", rest, _FD_MAX))


_PARSERS: Final[dict[str, Callable[[str], Address]]] = {
    "vsock": _parse_vsock,
    "unix": UnixAddress,
    "hybrid": _parse_hybrid,
    "fd": _parse_fd,
}


def _check_range(what: str, number: int, highest: int) -> None:
    if not 0 <= number <= highest:
        _bad_number(what, str(number), highest)


def _bad_number(what: str, text: str, highest: int, lowest: int = 0) -> NoReturn:
    raise AddressError(f"expected a {what} from {lowest} to {highest} in decimal, got {text!r}")


def _is_name(text: str) -> bool:
    allowed = text.isascii() and text.isprintable() and ":" not in text
    return allowed and 0 < len(text) <= _NAME_MAX


def _check_path(written: str, path: str) -> None:
    if not written:
        raise AddressError("expected a path, got none")
    if written.startswith("@"):
        raise AddressError(
            "expected a path, not an abstract socket (@): it has no owner or mode to protect it\n"
            f"Write ./{written} for a file with that name."
        )
    if "*" in written or "?" in written:
        raise AddressError(
            "expected a path, not a pattern\n"
            "Write one address per VM, or add each to a running server (nitrohb listen)."
        )
    if any(char < " " or "\x7f" <= char <= "\x9f" for char in written):
        raise AddressError("expected a path without control characters")
    try:
        size = len(os.fsencode(path))
    except UnicodeEncodeError:
        raise AddressError("expected a path that the file system can encode") from None
    if size > _UNIX_PATH_MAX:
        raise AddressError(
            f"expected a path of at most {_UNIX_PATH_MAX} bytes, got {size} ({path!r})\n"
            "Use a shorter directory."
        )
