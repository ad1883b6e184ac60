# SPDX-License-Identifier: Apache-2.0
"""The types of the public names. Type checkers read this file, and nothing runs it."""

import socket
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Literal, assert_never, assert_type

import anyio.abc
import trio

import nitrohb
from nitrohb import (
    CID_ANY,
    HEARTBEAT,
    HEARTBEAT_PORT,
    PARENT_CID,
    Address,
    AddressError,
    Connected,
    ConnectError,
    ConnectionEvent,
    Console,
    Disconnected,
    Done,
    Event,
    Evicted,
    Heartbeat,
    HeartbeatServer,
    HeartbeatTimeoutError,
    HybridAddress,
    InheritedSocket,
    Listener,
    ListenError,
    Listening,
    ListenTarget,
    Lost,
    NamedDescriptor,
    NitrohbError,
    PeerClosedError,
    PeerError,
    Rejected,
    RejectReason,
    UnixAddress,
    UnixPeer,
    Unlistened,
    UnusableAddressError,
    UsageError,
    VsockAddress,
    WrongByteError,
    answer_heartbeat,
    boot_timeout,
    inherited_sockets,
    open_listeners,
    parse_address,
    send_heartbeat,
    serve_heartbeat,
)

assert_type(nitrohb.__version__, str)
assert_type(nitrohb.__all__, list[str])
assert_type(CID_ANY, Literal[0xFFFFFFFF])
assert_type(HEARTBEAT, Literal[b"\xb7"])
assert_type(HEARTBEAT_PORT, Literal[9000])
assert_type(PARENT_CID, Literal[3])


async def serving(nursery: trio.Nursery, sock: socket.socket, listener: Listener) -> None:
    assert_type(await serve_heartbeat(), list[Heartbeat])
    await serve_heartbeat("vsock::9000", parse_address("fd:3"), sock, listener)
    await serve_heartbeat(
        UnixAddress("/run/x.sock"),
        keep=True,
        allow_cids={16, 17},
        allow_uids=[1000],
        any_byte=True,
        handshake_timeout=0.5,
        max_pending=10,
        on_event=print,
    )
    server: HeartbeatServer = await nursery.start(partial(serve_heartbeat, "vsock::9000"))
    assert_type(server.addresses, tuple[Address, ...])
    assert_type(await server.wait_heartbeat(), Heartbeat)
    await server.wait_heartbeat(cid=16, address="vsock::9000", max_age=5)
    await server.wait_heartbeat(address=VsockAddress(CID_ANY, HEARTBEAT_PORT))
    await server.wait_heartbeat(16)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    assert_type(server.last_heartbeats(), list[Heartbeat])
    assert_type(server.rearm(), None)
    server.rearm("vsock::9000")
    await serve_heartbeat(9000)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await serve_heartbeat(allow_cids=16)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def reading() -> None:
    console = Console("unix:serial.sock", on_data=print)
    assert_type(await console.run(), None)
    assert_type(console.tail(), list[str])
    assert_type(console.error, ConnectError | None)


def running() -> None:
    assert_type(trio.run(serve_heartbeat), list[Heartbeat])


async def sending(
    byte_stream: anyio.abc.ByteStream, socket_stream: trio.SocketStream, stream: trio.abc.Stream
) -> None:
    assert_type(await send_heartbeat(), float)
    assert_type(await send_heartbeat("unix:/run/x.sock", timeout=None), float)
    assert_type(await send_heartbeat(VsockAddress(PARENT_CID, HEARTBEAT_PORT), timeout=1), float)
    assert_type(await answer_heartbeat(byte_stream), bool)
    assert_type(await answer_heartbeat(socket_stream, any_byte=True), bool)
    assert_type(await answer_heartbeat(stream), bool)
    await answer_heartbeat(b"")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def timeouts() -> None:
    assert_type(boot_timeout(eif_bytes=1 << 30, memory_mib=4096), float)
    boot_timeout(1 << 30, 4096)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def listening(sock: socket.socket) -> None:
    assert_type(open_listeners(["vsock::9000", sock]), list[Listener])
    targets: list[ListenTarget] = ["vsock::9000", InheritedSocket(3), sock]
    with open_listeners(targets, socket_mode=0o660, socket_group=12)[0] as listener:
        assert_type(listener, Listener)
        assert_type(listener.address, Address)
        assert_type(listener.sock, socket.socket)
        assert_type(listener.time, datetime)
        assert_type(listener.age, float)
        assert_type(listener.has_cids, bool)
        assert_type(listener.accept(), tuple[int, VsockAddress | None])
        assert_type(listener.close(), None)


def addresses(text: str) -> None:
    address = parse_address(text)
    assert_type(
        address, VsockAddress | UnixAddress | HybridAddress | InheritedSocket | NamedDescriptor
    )
    match address:
        case VsockAddress(cid, port):
            assert_type((cid, port), tuple[int, int])
        case UnixAddress(path):
            assert_type(path, str)
        case HybridAddress(vm_path, port):
            assert_type((vm_path, address.path, port), tuple[str, str, int])
        case InheritedSocket(fd):
            assert_type(fd, int)
        case NamedDescriptor(name):
            assert_type(name, str)
        case _:
            assert_never(address)
    assert_type(inherited_sockets(), list[InheritedSocket])


def events(event: Event) -> None:
    assert_type(
        event,
        Listening
        | Connected
        | Heartbeat
        | Rejected
        | Disconnected
        | Evicted
        | Done
        | Unlistened
        | Lost,
    )
    assert_type(event.name, str)
    assert_type(event.address, Address)
    assert_type(event.time, datetime)
    assert_type(event.cid, int | None)
    assert_type(event.to_json(), dict[str, str | int | float | bool | None])
    match event:
        case Heartbeat():
            assert_type(event.peer, VsockAddress | UnixPeer)
            assert_type(event.time, datetime)
            assert_type(event.listening_seconds, float)
            assert_type(event.echo_seconds, float)
            assert_type(event.echoed, bool)
        case Rejected():
            assert_type(event.peer, VsockAddress | UnixPeer)
            assert_type(event.byte, int | None)
            assert_type(why(event.reason), str)
        case Connected() | Disconnected() | Evicted():
            assert_type(event.peer, VsockAddress | UnixPeer)
            assert_type(event.pid, int | None)
            assert_type(event.uid, int | None)
            assert_type(event.gid, int | None)
        case Lost():
            assert_type(event.replaced, bool)
            assert_type(event.problem, str | None)
            assert_type(event.explanation, str)
        case Listening() | Done() | Unlistened():
            pass
        case _:
            assert_never(event)


def why(
    reason: Literal[
        RejectReason.CID,
        RejectReason.UID,
        RejectReason.WRONG_BYTE,
        RejectReason.TIMEOUT,
        RejectReason.ALREADY_ANSWERED,
        RejectReason.REARMED,
        RejectReason.UNLISTENED,
    ],
) -> str:
    """Match every reason."""
    return reason.value


def on_event(callback: Callable[[Event], object]) -> None:
    partial(serve_heartbeat, on_event=callback)


def errors(usage: UsageError, wrong: WrongByteError, unusable: UnusableAddressError) -> None:
    assert_type(wrong.byte, int)
    assert_type(unusable.address, str)
    assert_type(unusable.errno, int | None)
    assert_type(unusable.reason, str)
    assert_type(unusable.remedy, str)
    assert_type(unusable.see_also, str)
    bad_arguments: list[ValueError] = [usage, AddressError()]
    peers: list[PeerError] = [wrong, PeerClosedError()]
    late = HeartbeatTimeoutError("no heartbeat came within 60 s", ())
    assert_type(late.instead, tuple[ConnectionEvent, ...])
    assert_type([event.outcome for event in late.instead], list[str])
    environment: list[UnusableAddressError] = [
        ListenError("vsock::9000", None, "reason", "remedy"),
        ConnectError("vsock:3:9000", 110, "reason", "remedy"),
    ]
    everything: list[NitrohbError] = [usage, *peers, late, *environment]
    print(bad_arguments, everything)
