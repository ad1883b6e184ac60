# SPDX-License-Identifier: Apache-2.0
"""``nitrohb serve --api``: serve the HTTP interface. This needs the extra ``api``."""

from __future__ import annotations

import gc
import importlib.util
import os
import socket
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from ..api.address import tcp_listen_error
from ..errors import ListenError, UsageError
from ..sockets.opening import check_distinct, open_listeners
from .settings import TcpApiSettings, UnixApiSettings, default_api

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager, ExitStack

    from ..addresses import Address
    from ..api.state import ServerState

    ApiFactory = Callable[[], AbstractAsyncContextManager[ServerState]]

_NEEDED: Final = ("starlette", "hypercorn", "prometheus_client")
_BACKLOG: Final = 128


def open_api(
    settings: UnixApiSettings | TcpApiSettings, addresses: Sequence[Address], closing: ExitStack
) -> ApiFactory:
    """Listen for clients of the interface, before the load of trio.

    Args:
        settings: The address of the interface, and who can use it.
        addresses: The listen addresses for heartbeats.
        closing: Closes the listening socket at the end.

    Returns:
        A context manager that serves the interface while its block runs.

    Raises:
        UsageError: The extra is not installed, or the address is one for heartbeats.
        ListenError: nitrohb cannot listen on the address.
    """
    if any(importlib.util.find_spec(name) is None for name in _NEEDED):
        raise UsageError(
            "--api needs packages that are not installed\n"
            "Install them, in a checkout of nitrohb: pip install '.[api]'"
        )
    sock = _listen(settings, addresses, closing)

    @asynccontextmanager
    async def api() -> AsyncGenerator[ServerState]:
        from ..api.app import create_app  # loads trio
        from ..api.serving import serving
        from ..api.state import ServerState

        is_host = None
        if isinstance(settings, TcpApiSettings):
            is_host = partial(settings.address.is_host, names=settings.hosts)
        state = ServerState(addresses)
        app = create_app(state, is_host=is_host)
        gc.freeze()  # to look for garbage in the loaded modules would take 10 ms
        async with serving(sock, app):
            yield state

    return api


def _check_distinct(api: Address, addresses: Sequence[Address]) -> None:
    try:
        check_distinct([*addresses, api])
    except UsageError:
        raise UsageError(
            f"cannot serve --api on {api}: it is also a listen address\nChoose another path for it."
        ) from None


def _listen(
    settings: UnixApiSettings | TcpApiSettings, addresses: Sequence[Address], closing: ExitStack
) -> socket.socket:
    if isinstance(settings, UnixApiSettings):
        is_default = settings.address == default_api()
        if is_default:
            with suppress(OSError):  # the listen then fails, with a message
                os.mkdir(os.path.dirname(settings.address.path), 0o755)
        _check_distinct(settings.address, addresses)
        try:
            (listener,) = open_listeners(
                [settings.address], socket_mode=settings.mode, socket_group=settings.group
            )
        except ListenError as error:
            if not is_default:
                raise
            remedy = f"{error.remedy} {error.see_also}".rstrip()
            remedy += "\nOr name another socket, also for clients: --api unix:PATH"
            raise ListenError(error.address, error.errno, error.reason, remedy) from error
        closing.callback(listener.close)
        return listener.sock
    address = settings.address
    try:
        sock = closing.enter_context(socket.socket(address.family))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address.name)
        sock.listen(_BACKLOG)
    except OSError as error:
        raise tcp_listen_error(address, error.errno or 0) from error
    return sock
