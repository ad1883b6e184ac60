# SPDX-License-Identifier: Apache-2.0
"""The heartbeat server: a nursery with one listener task per address.

::

    serve_heartbeat()                       opens every address, or none
    └── nursery
        ├── Acceptor.serve()                listener task of one address
        │   └── nursery
        │       ├── _accept_forever()       accepts, and answers the bytes that are there
        │       ├── _watch_socket_file()    creates a deleted socket file again
        │       ├── _handle()               handler task of one pending connection
        │       └── ...
        └── ...

The path of a heartbeat: the listener task accepts a connection (``acceptor``). The handshake
interprets the byte (``protocol``). The acceptor echoes the byte, closes the connection, emits the
event, and passes the heartbeat to a waiter (``claims``). Silent connections are counted per peer
(``pending``).
"""

import logging
from collections.abc import Callable, Collection
from typing import Final

import trio

from .acceptor import ServerContext
from .addresses import CID_ANY, VsockAddress
from .arguments import check_callback, check_count, check_seconds
from .claims import ClaimQueue
from .connection import Allowed
from .errors import UsageError, leaves
from .events import Event, Heartbeat, Lost
from .handle import Acceptors, HeartbeatServer, checked_id
from .pending import Pending
from .protocol import HEARTBEAT_PORT
from .reserve import Reserve
from .sockets.opening import NOWHERE, ListenTarget, closing_stack

OnEvent = Callable[[Event], object]

DEFAULT_LISTEN: Final = VsockAddress(CID_ANY, HEARTBEAT_PORT)

_log: Final = logging.getLogger(__package__)


async def serve_heartbeat(
    *listen: ListenTarget,
    keep: bool = False,
    allow_cids: Collection[int] | None = None,
    allow_uids: Collection[int] | None = None,
    any_byte: bool = False,
    handshake_timeout: float = 5.0,
    max_pending: int = 1024,
    socket_mode: int = 0o600,
    socket_group: int | None = None,
    on_event: Callable[[Event], object] | None = None,
    task_status: trio.TaskStatus[HeartbeatServer] = trio.TASK_STATUS_IGNORED,
) -> list[Heartbeat]:
    """Listen for the heartbeats of enclaves, answer them, and return them.

    The init of an enclave connects to its parent (CID 3, port 9000), sends 0xB7 and waits for the
    same byte. (Source: init.c in aws-nitro-enclaves-sdk-bootstrap.) Each address answers one
    heartbeat and closes, as QEMU's device does (hw/nitro/heartbeat.c in QEMU), unless ``keep`` is
    true. A connection that sends another byte, or none, is closed, and the address keeps listening.
    Connections do not wait for one another. If another process deletes or replaces a socket file
    that the server created, the server creates it again as soon as it can (``Lost``).

    To listen before the enclave starts, use ``await nursery.start(serve_heartbeat, ...)``. It
    returns a ``HeartbeatServer``, which claims heartbeats, and adds and removes addresses.

    Args:
        *listen: The listen addresses: text (``"vsock::9000"``), address objects, listening sockets,
            or listeners of ``open_listeners()``. Default: ``vsock::9000``. With ``"none"`` and
            ``keep=True``, there is no address until ``HeartbeatServer.listen()`` adds one.
        keep: Answer every heartbeat, until cancelled. If false, answer one per address, then close
            it (a one-shot address).
        allow_cids: On AF_VSOCK, answer only these CIDs. A connection from another CID is closed
            before anything is read from it. The peers of a Unix socket have no CID: if you listen
            on one, pass ``allow_uids``, too. If both are None, all peers are answered.
        allow_uids: On Unix sockets, answer only these numeric user IDs, and root only if it is one
            of them. The peers on AF_VSOCK have no user ID: if you listen there, pass
            ``allow_cids``, too. ``socket_mode`` and ``socket_group`` determine whether these users
            can connect.
        any_byte: Accept and echo any first byte, as QEMU's device does.
        handshake_timeout: Seconds until a pending connection (one that has sent no byte) is closed.
        max_pending: The maximum number of pending connections, on all addresses together. Each
            takes about 4 KiB. If there are too many, or descriptors or memory run out,
            the peer with the most pending connections loses its oldest one (``Evicted``). A peer is
            a CID on AF_VSOCK, and a process on a Unix socket. On each address, all processes that
            this PID namespace hides count as one peer.
        socket_mode: Permission bits of new socket files.
        socket_group: Numeric group ID of new socket files; None leaves it unchanged.
        on_event: A function that gets every ``Event``, in order, in the thread of this task. It
            must not block, and its result is ignored. The server logs (``logging``) if descriptors
            or memory run out. If this is None, it also logs if a socket file is lost and cannot be
            created again.
        task_status: For ``nursery.start()``, which gets a ``HeartbeatServer`` when *every* address
            accepts connections.

    Returns:
        The heartbeats, one per address, in the order of ``HeartbeatServer.addresses``. With
        ``keep=True`` it never returns.

    Raises:
        AddressError: An address is malformed.
        UsageError: An argument is wrong, or contradicts another.
        ListenError: nitrohb cannot listen on an address, and has closed the others again. Or a
            listening socket broke, for example because another process shut it down.
        NitrohbError: The process has no free descriptor for the server to keep in reserve.

    **Checkpoints.** It opens the addresses without a checkpoint, and then always executes one.
    Opening blocks for up to 1 s if another process has locked the directory of a dead socket file.
    After that, only the cancel scope of the caller limits the time.

    **Resource handling.** Sockets and listeners that you pass belong to this call: it closes them,
    however it ends. A cancellation at any checkpoint leaves nothing behind: no open descriptor, no
    socket file that it created, no task.

    **Error handling.** No peer can end the server. If a listening socket breaks, or ``on_event``
    raises an error, everything is closed, and that error is raised. But if ``listen()``,
    ``unlisten()`` or ``rearm()`` calls ``on_event``, the error comes out of that method, and the
    server goes on. Several errors at the same time are raised in an exception group. A nursery
    always raises exception groups, so catch errors with ``except*`` around it.
    """
    with closing_stack(listen) as closing:
        if not trio.lowlevel.in_trio_run():
            raise UsageError(
                "serve_heartbeat() needs trio, which does not run here\n"
                "Use serve_in_thread(), or run it with trio.run()."
            )
        if on_event is not None:
            check_callback("on_event", on_event)
        wants_server = task_status is not trio.TASK_STATUS_IGNORED
        claims, reserve = ClaimQueue(), Reserve()
        closing.callback(reserve.spend)
        context = ServerContext(
            keep=keep,
            allowed=_validate(allow_cids, allow_uids, handshake_timeout, max_pending),
            any_byte=any_byte,
            handshake_timeout=handshake_timeout,
            max_pending=max_pending,
            socket_mode=socket_mode,
            socket_group=socket_group,
            emit=on_event or _log_problem,
            wants_events=not keep or wants_server or on_event is not None,
            claim_queue=claims if wants_server else None,
            pending=Pending(),
            reserve=reserve,
        )
        acceptors = Acceptors(context, claims)
        closing.callback(acceptors.close)
        opened = acceptors.open(_targets(listen, keep=keep), may_wait=True)
        with claims:
            errors: list[BaseException] = []
            try:
                async with trio.open_nursery() as nursery:
                    acceptors.start(opened, nursery)
                    if keep:  # it keeps running without an address
                        nursery.start_soon(trio.sleep_forever)
                    task_status.started(HeartbeatServer(acceptors))
            except BaseExceptionGroup as group:
                errors = [it for it in leaves(group) if not isinstance(it, trio.Cancelled)]
                if len(errors) != 1:
                    raise
            if errors:
                raise errors[0]  # here, so the group is not its context
    return [each.heartbeat for each in acceptors if each.heartbeat is not None]


def _targets(listen: tuple[ListenTarget, ...], *, keep: bool) -> tuple[ListenTarget, ...]:
    if listen != (NOWHERE,):
        return listen or (DEFAULT_LISTEN,)
    if not keep:
        raise UsageError(
            "cannot serve without an address: a one-shot server would end at once\n"
            "Pass keep=True, or an address."
        )
    return ()


def _validate(
    cids: Collection[int] | None,
    uids: Collection[int] | None,
    handshake_timeout: float,
    max_pending: int,
) -> Allowed | None:
    check_seconds("handshake_timeout", handshake_timeout, may_be_0=False)
    check_count("max_pending", max_pending)
    if cids is uids is None:
        return None
    return Allowed(_checked_ids("allow_cids", cids), _checked_ids("allow_uids", uids))


def _checked_ids(name: str, numbers: Collection[object] | None) -> frozenset[int]:
    if numbers is None:
        return frozenset()
    if isinstance(numbers, int):
        raise UsageError(f"{name} cannot be {numbers!r}\nPass a set of numbers.")
    if not numbers:
        raise UsageError(
            f"{name} is empty, so no peer would be answered\nPass None to allow all peers."
        )
    return frozenset(checked_id(name, number) for number in numbers)


def _log_problem(event: Event) -> None:
    """Log a lost socket file, if there is no ``on_event``."""
    if isinstance(event, Lost) and event.problem is not None:
        _log.warning("nitrohb: %s", event.explanation)
