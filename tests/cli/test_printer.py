# SPDX-License-Identifier: Apache-2.0
"""Events are printed soon, together, and all of them. test_output.py has slow readers."""

import fcntl
import os
from collections.abc import Generator
from contextlib import closing, contextmanager, nullcontext, redirect_stdout
from typing import BinaryIO

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from nitrohb import Connected, Disconnected, Listening
from nitrohb.cli.output import Output
from nitrohb.cli.printer import draining, printing

from .events import made

LISTENING, CONNECTED, DISCONNECTED = made(Listening), made(Connected), made(Disconnected)


class Printed(list[list[str]]):
    """The names of the events that were printed together."""

    def __call__(self, text: str) -> None:
        self.append([line.split()[1].removeprefix("nitro_") for line in text.splitlines()])


@pytest.mark.parametrize("end", ["return", "cancellation", "failure"])
@pytest.mark.parametrize("is_idle_first", [False, True])
async def test_the_rest_is_printed_at_the_end(
    end: str, is_idle_first: bool, output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = Printed()
    monkeypatch.setattr(output, "write_events", printed)
    fails = pytest.RaisesGroup(ZeroDivisionError) if end == "failure" else nullcontext()
    with fails, trio.CancelScope() as scope:
        async with printing(output) as printer:
            if is_idle_first:
                await wait_all_tasks_blocked()
            printer.on_event(CONNECTED)
            printer.on_event(DISCONNECTED)
            if end == "cancellation":
                scope.cancel()
                await trio.lowlevel.checkpoint()
            elif end == "failure":
                raise ZeroDivisionError
    assert printed == [["connected", "disconnected"]]


async def test_events_of_one_pass_of_the_event_loop_are_printed_together(
    output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = Printed()
    monkeypatch.setattr(output, "write_events", printed)
    async with printing(output) as printer:
        await wait_all_tasks_blocked()
        assert not printed
        printer.on_event(LISTENING)
        await wait_all_tasks_blocked()
        printer.on_event(CONNECTED)
        printer.on_event(DISCONNECTED)
        assert printed == [["listening"]]
        await wait_all_tasks_blocked()
        assert printed == [["listening"], ["connected", "disconnected"]]


PAGE = 4096  # bytes: the smallest pipe


@contextmanager
def small_pipe() -> Generator[tuple[Output, BinaryIO]]:
    """An output to a full pipe, with as much queued again, and the other end of the pipe."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PAGE)
    with (
        open(reader, "rb", buffering=0) as end,
        open(writer, "w") as pipe,
        redirect_stdout(pipe),
        closing(Output()) as output,
    ):
        for _ in range(2):
            output.print_out((PAGE - 1) * "x")
        assert output.stdout.has_queued
        yield output, end


async def test_reader_that_goes_away_while_lines_are_queued(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with small_pipe() as (output, reader):
        async with draining(output):
            reader.close()
            await wait_all_tasks_blocked()
            assert "stdout: Broken pipe (EPIPE); " in capfd.readouterr().err


async def test_queue_that_fills_again_while_it_is_written() -> None:
    with small_pipe() as (output, reader):
        output.stderr = output.stdout
        output.print_out(1_000_000 * "x")  # dropped
        async with draining(output):
            for _ in range(2):
                assert len(reader.read(PAGE)) == PAGE
                await wait_all_tasks_blocked()
            assert b"dropped 1 line" in reader.read(PAGE)
