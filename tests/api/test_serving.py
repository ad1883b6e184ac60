# SPDX-License-Identifier: Apache-2.0
"""Connections, where a process would need perfect timing; and who is meant by a Host header."""

import errno
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
import trio
from hypercorn.trio.tcp_server import TCPServer
from starlette.types import Receive, Scope, Send
from trio.testing import MockClock

from nitrohb.api.address import TcpAddress, parse_api_address
from nitrohb.api.serving import serving
from tests.cli.process import listening
from tests.support import Client

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with more than any buffer takes."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": bytes(10_000_000)})


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with listening(tmp_path / "api") as sock:
        yield sock


async def test_who_does_not_read_is_cut_off(
    listener: socket.socket, autojump_clock: MockClock
) -> None:
    async with serving(listener, app):
        with Client(listener.getsockname()) as client:
            client.send(REQUEST)
            await trio.sleep(9)
            assert client.sock.recv(1) == b"H"
            await trio.sleep(2)
            got, ended = client.look()
            assert ended
            assert len(got) < 10_000_000


async def test_the_bug_of_one_connection_does_not_end_the_others(
    listener: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: MockClock,
) -> None:
    async def fail(_: object) -> NoReturn:
        raise ZeroDivisionError

    async with serving(listener, app):
        with monkeypatch.context() as buggy, Client(listener.getsockname()) as client:
            buggy.setattr(TCPServer, "run", fail)
            await trio.sleep(1)
            assert client.look() == (b"", True)
        with Client(listener.getsockname()) as client:
            client.send(REQUEST)
            await trio.sleep(1)
            assert client.look()[0].startswith(b"HTTP/1.1 200")
    messages = [("nitrohb.api.serving", logging.ERROR, "a connection failed")]
    assert caplog.record_tuples == messages


async def test_without_a_descriptor_to_spare_it_tries_again(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    failures = [OSError(errno.EMFILE, os.strerror(errno.EMFILE))]

    class Scarce:
        async def accept(self) -> NoReturn:
            if failures:
                raise failures.pop()
            await trio.sleep_forever()
            raise AssertionError("unreachable")

    def scarce(_: socket.socket) -> Scarce:
        return Scarce()

    monkeypatch.setattr(trio.socket, "from_stdlib_socket", scarce)
    async with serving(listener, app):
        await trio.sleep(0.2)
        assert failures == []


@pytest.mark.parametrize(
    ("address", "host", "ours"),
    [
        ("127.0.0.1:9180", "127.0.0.1:9180", True),
        ("127.0.0.1:9180", "127.0.0.1:1234", True),
        ("127.0.0.1:9180", "LocalHost", True),
        ("127.0.0.1:9180", "[::1]:9180", True),
        ("[::1]:9180", "[::1]", True),
        ("localhost:9180", "127.0.0.1", True),
        ("127.0.0.1:9180", "", False),
        ("127.0.0.1:9180", "evil.example:9180", False),
        ("127.0.0.1:9180", "localhost.evil.example", False),
        ("127.0.0.1:9180", "192.0.2.1:9180", False),
        ("192.0.2.1:9180", "192.0.2.1:9180", True),
        ("0.0.0.0:9180", "192.0.2.1:9180", True),
        ("0.0.0.0:9180", "evil.example", False),
    ],
)
def test_whom_a_host_header_means(address: str, host: str, ours: bool) -> None:
    parsed = parse_api_address(address)
    assert isinstance(parsed, TcpAddress)
    assert parsed.is_host(host) == ours
