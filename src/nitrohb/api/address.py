# SPDX-License-Identifier: Apache-2.0
"""Where the interface listens: ``unix:/run/x.sock``, ``127.0.0.1:9180`` or ``[::1]:9180``.

No names are resolved, but ``localhost``, which is 127.0.0.1: what an address means must not depend
on who answers for a name.
"""

from __future__ import annotations

import ipaddress
import socket

from ..addresses import UnixAddress, parse_address, parse_number
from ..errors import AddressError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["ApiAddress", "TcpAddress", "parse_api_address"]


class TcpAddress:
    """A TCP address.

    Args:
        ip: The IP address.
        port: The port.

    Attributes:
        family: That of its sockets.
        name: What such a socket is bound or connected to.
    """

    def __init__(self, ip: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> None:
        self.ip = ip
        self.port = port
        self.family = socket.AF_INET6 if ip.version == 6 else socket.AF_INET
        self.name = (str(ip), port)

    def is_host(self, host: str, names: Collection[str] = ()) -> bool:
        """Whether a Host header means this address, by a name that nobody else can make his own.

        Args:
            host: The header.
            names: More names that it has, in lower case.

        An address that stands for all of the machine's has any of them for its name. The port does
        not matter: it may be a tunnel's.
        """
        name, _, port = host.rpartition(":")
        name = name if port.isdigit() else host
        if name.lower() in ("localhost", *names):
            return True
        try:
            ip = ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
        except ValueError:
            return False
        return ip.is_loopback or ip == self.ip or self.ip.is_unspecified

    def __str__(self) -> str:
        return f"[{self.ip}]:{self.port}" if self.ip.version == 6 else f"{self.ip}:{self.port}"


ApiAddress = UnixAddress | TcpAddress


def parse_api_address(text: str) -> ApiAddress:
    """Read where the interface listens.

    Raises:
        AddressError: It is neither a Unix socket nor an IP address with a port.
    """
    if text.startswith("unix:"):
        address = parse_address(text)
        assert isinstance(address, UnixAddress)
        return address
    host, _, port = text.rpartition(":")
    host = "127.0.0.1" if host == "localhost" else host
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        ip = ipaddress.ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        ip = None
    if ip is None or bracketed != (ip.version == 6) or "%" in host:
        raise AddressError(
            f"{text!r}: expected unix:PATH or an IP address and a port, for example 127.0.0.1:9180"
            " or [::1]:9180"
        )
    number = parse_number("port", port, 65535)
    if number == 0:
        raise AddressError(f"{text!r} leaves the port open: name one, for example 127.0.0.1:9180")
    return TcpAddress(ip, number)
