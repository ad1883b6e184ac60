# SPDX-License-Identifier: Apache-2.0
"""``nitrohb serve --api``: the interface beside the server."""

import argparse
import gc
import importlib.util
import socket
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

from ..addresses import Address, UnixAddress
from ..api.address import ApiAddress, TcpAddress, tcp_listen_error
from ..errors import UsageError
from ..sockets.opening import check_distinct, open_listeners

if TYPE_CHECKING:
    from ..api.backend import Backend

    Api = Callable[[], AbstractAsyncContextManager[Backend]]

__all__ = ["check", "open_api"]

_NEEDED: Final = ("starlette", "hypercorn", "prometheus_client")
_BACKLOG: Final = 128
_MODE: Final = 0o600


def check(args: argparse.Namespace) -> None:
    """Refuse an interface that cannot be, or should not.

    Raises:
        UsageError: Its server ends too early for it, its packages are not installed, or other
            machines could reach it.
    """
    if not args.keep:
        raise UsageError(
            "--api needs --keep: a server that ends with its last heartbeat ends before the answer"
            " to a claim has left"
        )
    if any(importlib.util.find_spec(name) is None for name in _NEEDED):
        raise UsageError("--api needs the extra api: pip install 'nitrohb[api]'")
    address: ApiAddress = args.api
    _check_options(address, args)
    if isinstance(address, TcpAddress) and not (address.ip.is_loopback or args.api_allow_remote):
        raise UsageError(
            f"--api {address}: other machines reach this address, and there are no passwords:"
            " use 127.0.0.1 or a Unix socket, or say --api-allow-remote"
        )


def _check_options(address: ApiAddress, args: argparse.Namespace) -> None:
    """Refuse what would have no effect: somebody could rely on it."""
    if isinstance(address, TcpAddress):
        if args.api_mode is not None or args.api_group is not None:
            raise UsageError(f"--api-mode and --api-group are for a Unix socket, not for {address}")
    elif args.api_host or args.api_allow_remote:
        raise UsageError(f"--api-host and --api-allow-remote are for TCP, not for {address}")


def open_api(args: argparse.Namespace, addresses: Sequence[Address], closing: ExitStack) -> "Api":
    """Listen for clients of the interface.

    Args:
        args: The command line.
        addresses: Where the server listens for heartbeats.
        closing: Closes the interface's socket in the end.

    Returns:
        What serves the interface while its block runs.

    Raises:
        UsageError: Heartbeats come in on its address.
        ListenError: Its address cannot be listened on.
    """
    address: ApiAddress = args.api
    sock = _listen(address, args, addresses, closing)

    @asynccontextmanager
    async def api() -> "AsyncGenerator[Backend]":
        from ..api.app import create_app
        from ..api.backend import Backend
        from ..api.serving import serving

        backend = Backend(addresses)
        is_host = None
        if isinstance(address, TcpAddress):
            is_host = partial(address.is_host, names={name.lower() for name in args.api_host})
        app = create_app(backend, is_host=is_host)
        gc.freeze()  # to look for garbage in all that is loaded by now takes 10 ms
        async with serving(sock, app):
            yield backend

    return api


def _listen(
    address: ApiAddress,
    args: argparse.Namespace,
    addresses: Sequence[Address],
    closing: ExitStack,
) -> socket.socket:
    if isinstance(address, UnixAddress):
        check_distinct([*addresses, address])
        mode = _MODE if args.api_mode is None else args.api_mode
        (listener,) = open_listeners([address], socket_mode=mode, socket_group=args.api_group)
        closing.callback(listener.close)
        return listener.sock
    try:
        sock = closing.enter_context(socket.socket(address.family))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address.name)
        sock.listen(_BACKLOG)
    except OSError as error:
        raise tcp_listen_error(address, error.errno or 0) from error
    return sock
