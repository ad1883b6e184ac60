# SPDX-License-Identifier: Apache-2.0
"""A client that makes the system calls of each known init, and the events of nitrohb."""

import os
import re
import subprocess
from functools import partial
from typing import NamedTuple

import pytest
import trio

from nitrohb import Event, Heartbeat, answer_heartbeat, open_listeners
from tests.docs.examples import ROOT
from tests.support import B7, child, names

from .test_server import (
    ECHOED,
    LOCAL,
    NO_CONNECTION,
    NO_ECHO,
    OTHER_ECHO,
    PATIENCE,
    enclave,
    in_thread,
    serving,
)

pytestmark = pytest.mark.vsock

GOES_ON, NO_ARGUMENTS = ECHOED, 4


class Client(NamedTuple):
    name: str  # in enclave.c
    end: int
    waits: bool = True  # for an answer


# By the names in docs/explanation/protocol.md, whose table has the events of nitrohb.
CLIENTS = {
    "AWS's init, since 6 July 2020": Client("aws", GOES_ON),
    "AWS's init until 15 January 2020": Client("aws-2020-01-15", GOES_ON, waits=False),
    "AWS's init, 16 January to 11 May 2020": Client("aws-2020-01-16", GOES_ON, waits=False),
    "AWS's init, 12 May to 1 July 2020": Client("aws-2020-05-12", GOES_ON, waits=False),
    "AWS's init, 2 to 5 July 2020": Client("aws-2020-07-02", OTHER_ECHO),
    "a Go init for reproducible images": Client("go", GOES_ON),
    "a Rust init for key management": Client("rust", GOES_ON),
    "Sentient's enclave-init, a service manager": Client("service-manager", GOES_ON),
    "a shell script with socat": Client("shell", GOES_ON),
    "libkrun's old init": Client("libkrun-old", NO_ARGUMENTS),
    "libkrun's init": Client("libkrun", NO_CONNECTION, waits=False),
}
PAGE = (ROOT / "docs/explanation/protocol.md").read_text()
ROWS = re.findall(r"^\| (.+?) \| .+ \| (.+?) \|$", PAGE.partition("## Each init")[2], re.MULTILINE)
TABLE: dict[str, str] = dict(ROWS[1:])


def test_the_page_has_every_init() -> None:
    assert [*TABLE] == [*CLIENTS]


def command(client: str, byte: int = B7[0]) -> list[str]:
    return [os.environ["NITROHB_ENCLAVE"], str(LOCAL), "9000", str(byte), client]


def said(event: Event) -> str:
    echoed = f", `echoed={str(event.echoed).lower()}`" if isinstance(event, Heartbeat) else ""
    return f"`{event.name}`{echoed}"


@pytest.mark.parametrize("init", CLIENTS)
async def test_the_exit_status_and_the_events(init: str) -> None:
    client, expected = CLIENTS[init], TABLE[init]
    answered = "`heartbeat`" in expected
    with (
        open_listeners(["vsock::9000"])[0] as listener,
        child(command(client.name), stdout=subprocess.DEVNULL) as process,
    ):
        ended = partial(process.wait, PATIENCE)
        if not client.waits:  # it has closed before the server reads
            await in_thread(ended)
        async with serving(listener) as events:
            assert await in_thread(ended) == client.end
            if not answered:  # so its events have arrived, and the one-shot server still listens
                assert await in_thread(enclave) == ECHOED
    told = [event for event in events if event.name not in ("listening", "connected", "done")]
    assert ", ".join(map(said, told if answered else told[:-1])) == expected.replace("nothing", "")


async def test_a_listener_that_starts_between_two_tries() -> None:
    """The shell script tries ten times, a second apart."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with child(command("shell"), **pipes) as script:
        assert b"connect" in await in_thread(script.stderr.readline)
        async with serving() as events:
            out, _ = await in_thread(partial(script.communicate, timeout=PATIENCE))
    assert (script.returncode, out) == (GOES_ON, B7)
    assert names(events) == ["listening", "connected", "heartbeat", "done"]


@pytest.mark.parametrize(
    ("client", "end"),
    [("aws", NO_ECHO), ("go", OTHER_ECHO), ("rust", GOES_ON), ("service-manager", GOES_ON)],
)
async def test_some_inits_go_on_although_they_are_refused(client: str, end: int) -> None:
    """They send a wrong byte, so the server closes the connection after it, not before."""
    async with serving(keep=True) as events:
        process = partial(subprocess.run, command(client, byte=1), timeout=PATIENCE)
        assert (await in_thread(process)).returncode == end
    assert names(events) == ["listening", "connected", "rejected"]


async def test_launch_arguments_after_the_answer_as_old_libkrun_expects() -> None:
    """An empty root file system, the program, its argument, and no environment."""
    nothing, one, program = bytes(4), b"\x01\0\0\0", b"\x05\0\0\0/init"
    with (
        trio.fail_after(PATIENCE),
        open_listeners(["vsock::9000"])[0] as listener,
        child(command("libkrun-old")) as init,
    ):
        await trio.lowlevel.wait_readable(listener.sock)
        fd, _ = listener.accept()
        async with trio.SocketStream(trio.socket.socket(fileno=fd)) as stream:
            assert await answer_heartbeat(stream)
            await stream.send_all(nothing + program + one + program + nothing)
            assert await in_thread(partial(init.wait, PATIENCE)) == GOES_ON
