# SPDX-License-Identifier: Apache-2.0
"""``nitrohb serve`` in this process, on sockets whose peers seem to have CIDs; and its warnings."""

import json
from collections.abc import Callable, Collection
from contextlib import nullcontext
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from nitrohb import Connected, Heartbeat, Listening, Rejected, RejectReason, open_listeners
from nitrohb.api.state import ServerState
from nitrohb.cli.answer import Warner, answer_and_report
from nitrohb.cli.output import DEBUG, NOTHING, Output
from nitrohb.server import OnEvent
from tests.support import Client, PeersWithCids, beat

from .events import made
from .settings import server_settings


class AwaitsCid(ServerState):
    """The HTTP interface while a client waits for one CID."""

    def awaits_cid(self) -> bool:
        return True


def api() -> nullcontext[ServerState]:
    return nullcontext(AwaitsCid([]))


@pytest.mark.parametrize(
    ("allow_cids", "serve_api", "event_level", "what"),
    [
        ([16], None, DEBUG, "was rejected"),
        ([1, 16], None, NOTHING, "was allowed"),
        (None, api, NOTHING, "a client waits for another CID"),
    ],
)
async def test_cid_that_all_vms_share_is_warned_of_once(
    allow_cids: Collection[int] | None,
    serve_api: Callable[[], nullcontext[ServerState]] | None,
    event_level: int,
    what: str,
    sock: Path,
    output: Output,
    capfd: pytest.CaptureFixture[str],
) -> None:
    settings = server_settings(keep=True, allow_cids=allow_cids, event_level=event_level)
    async with trio.open_nursery() as nursery:
        with PeersWithCids(sock) as listener:
            nursery.start_soon(answer_and_report, settings, [listener], serve_api, output)
            await wait_all_tasks_blocked()
            for cid in (16, 15):
                listener.connect(cid).close()
            await wait_all_tasks_blocked()
            assert not capfd.readouterr().err
            for _ in range(2):
                listener.connect(1).close()
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    out, err = capfd.readouterr()
    first, second = err.splitlines()
    assert "a connection from CID 1 on vsock:3:9000 " in first
    assert what in first
    assert "forward-cid=1" in first
    assert "sibling VM" in second
    assert bool(out) == (event_level != NOTHING)


@pytest.mark.parametrize("allow_cids", [None, [1], [16]])
def test_no_warning_if_only_the_shared_cid_is_allowed(
    allow_cids: Collection[int] | None,
) -> None:
    warned: list[str] = []
    warnings = Warner(warned.append, allow_cids)
    warnings.on_event(made(Connected, cid=1))
    warnings.on_event(made(Rejected, cid=1, reason=RejectReason.TIMEOUT))
    assert not warned


async def test_lost_socket_file_is_created_again(
    tmp_path: Path, output: Output, capfd: pytest.CaptureFixture[str], autojump_clock: MockClock
) -> None:
    directory = tmp_path / "vms"
    sock = directory / "hb"
    directory.mkdir()
    settings, output.is_json = server_settings(keep=True), True
    with open_listeners([f"unix:{sock}"])[0] as listener:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_and_report, settings, [listener], None, output)
            await wait_all_tasks_blocked()
            sock.unlink()
            await trio.sleep(1)
            await beat(Client(sock))
            directory.rename(tmp_path / "gone")
            await trio.sleep(1)
            out, err = capfd.readouterr()
            assert json.loads(err)["message"].startswith(f"the socket file of unix:{sock} is gone")
            assert f"mkdir -p {directory}" in err
            events = [json.loads(line) for line in out.splitlines()]
            directory.mkdir()
            await trio.sleep(1)
            await beat(Client(sock))
            nursery.cancel_scope.cancel()
    names = [event["event"] for event in events]
    assert names == ["listening", "lost", "listening", "connected", "heartbeat", "lost"]
    assert [events[1][name] for name in ("replaced", "problem")] == [False, None]


@pytest.mark.parametrize(("keep", "code"), [(False, 0), (True, 124)])
async def test_time_limit_in_the_moment_of_the_last_heartbeat(
    keep: bool,
    code: int,
    tmp_path: Path,
    output: Output,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: MockClock,
) -> None:
    async def serve_heartbeat(*_: object, on_event: OnEvent, **__: object) -> None:
        on_event(made(Listening))
        on_event(made(Heartbeat))
        await trio.sleep_forever()

    monkeypatch.setattr("nitrohb.cli.answer.serve_heartbeat", serve_heartbeat)
    settings = server_settings(keep=keep, timeout=1.0)
    with open_listeners([f"unix:{tmp_path}/hb"])[0] as listener:
        assert await answer_and_report(settings, [listener], None, output) == code
