# SPDX-License-Identifier: Apache-2.0
"""The address of the HTTP interface: ``unix:/run/x.sock``, ``127.0.0.1:9180`` or ``[::1]:9180``.

Host names are refused, because the meaning of an address must not depend on a name server. The one
exception is ``localhost``, which means 127.0.0.1.
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Final

from ..addresses import UnixAddress, parse_address, parse_number
from ..errors import AddressError, ConnectError, ListenError
from ..remedies import advice_from, connect_error

if TYPE_CHECKING:
    import ipaddress
    from collections.abc import Collection

_LOCAL: Final = "Use 127.0.0.1:PORT, or a Unix socket."
_LOW_PORT: Final = "Use port 1024 or higher, or grant CAP_NET_BIND_SERVICE."
_START: Final = "Start the server first: nitrohb serve --keep --api {shell_address}"
_MODE: Final = "Run as the owner of the file, or start the server with --api-mode and --api-group."

_LISTEN: Final = {
    errno.EADDRINUSE: ("another process listens on that port", "Stop it, or choose another port."),
    errno.EADDRNOTAVAIL: ("this machine does not have that address", _LOCAL),
    errno.EACCES: ("ports below 1024 need a privilege", _LOW_PORT),
    errno.EAFNOSUPPORT: ("this machine does not support that kind of address", _LOCAL),
}
_CONNECT: Final = {
    errno.ENOENT: ("the socket does not exist", _START),
    errno.ECONNREFUSED: ("no server listens there", _START),
    errno.EACCES: ("this user has no permission to use its socket file", _MODE),
}


class TcpAddress:
    """A TCP address.

    Args:
        ip: The IP address.
        port: The port.

    Attributes:
        family: The address family of its sockets.
        name: The address as bind(2) and connect(2) take it.
    """

    def __init__(self, ip: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> None:
        self.ip = ip
        self.port = port
        self.family = socket.AF_INET6 if ip.version == 6 else socket.AF_INET
        self.name = (str(ip), port)

    def is_host(self, host: str, names: Collection[str] = ()) -> bool:
        """Return whether a Host header names this address. An attacker cannot own such a name.

        The port is ignored, because a tunnel can use another one. An unspecified address (0.0.0.0
        or ::) stands for every address of the machine, so it accepts any IP address.

        Args:
            host: The header.
            names: Host names to accept as well, in lower case.
        """
        name, ip = _parse_host(host)
        if name in ("localhost", *names):
            return True
        return ip is not None and (ip.is_loopback or ip == self.ip or self.ip.is_unspecified)

    def __str__(self) -> str:
        return f"[{self.ip}]:{self.port}" if self.ip.version == 6 else f"{self.ip}:{self.port}"


ApiAddress = UnixAddress | TcpAddress


def is_local(host: str) -> bool:
    """Return whether a Host header cannot be a name in DNS, which an attacker can own."""
    name, ip = _parse_host(host)
    return ip is not None or "." not in name


def _parse_host(host: str) -> tuple[str, ipaddress.IPv4Address | ipaddress.IPv6Address | None]:
    """Return the name in a Host header, in lower case and without the port, and its IP address."""
    import ipaddress  # see parse_api_address()

    name, _, port = host.rpartition(":")
    name = (name if port.isdigit() else host).lower()
    try:
        return name, ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return name, None


def parse_api_address(text: str) -> ApiAddress:
    """Return the address of the interface that a text names.

    Raises:
        AddressError: It is neither a Unix socket nor an IP address with a port.
    """
    if text.startswith("unix:"):
        address = parse_address(text)
        assert isinstance(address, UnixAddress)
        return address
    import ipaddress  # not loaded for a Unix socket: "nitrohb wait" starts sooner

    host, _, port = text.rpartition(":")
    host = "127.0.0.1" if host == "localhost" else host
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        ip = ipaddress.ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        ip = None
    if ip is None or bracketed != (ip.version == 6) or "%" in host:
        expected = "unix:PATH or an IP address and a port, as in 127.0.0.1:9180 or [::1]:9180"
        raise AddressError(f"{text!r} is not an address: expected {expected}")
    try:
        return TcpAddress(ip, parse_number("port", port, 65535, 1))
    except AddressError as error:
        raise AddressError(f"{text!r} is not an address: {error}") from None


def tcp_listen_error(address: TcpAddress, number: int) -> ListenError:
    """Return the error for a failure to listen on a TCP address, with its remedy."""
    return ListenError(str(address), number, *advice_from(_LISTEN, number, address))


def api_connect_error(address: ApiAddress, number: int) -> ConnectError:
    """Return the error for a failure to connect to the interface, with its remedy."""
    if isinstance(address, UnixAddress):
        return connect_error(address, number, _CONNECT)
    return ConnectError(str(address), number, *advice_from(_CONNECT, number, address))
