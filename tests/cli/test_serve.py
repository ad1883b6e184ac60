# SPDX-License-Identifier: Apache-2.0
"""``nitrohb serve``: answer, report, end. Without a command, options are those of serve."""

import json
import os
import re
import select
import signal
import socket
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nitrohb.remedies import LOCAL_ADVICE
from nitrohb.sockets.listener import Listener

from .process import (
    HEARTBEAT,
    NITROHB,
    PATIENCE,
    beat,
    connected,
    nitrohb_here,
    redirected,
    started,
    wait_for_file,
)

INSTALLED = (str(Path(sys.executable).with_name("nitrohb")),)


def test_a_boot_has_four_events_in_json(sock: Path) -> None:
    with started("serve", "-l", f"unix:{sock}", "--format", "json") as script:
        before = datetime.now(UTC)
        events = [script.event()]
        assert beat(sock) == HEARTBEAT
        events += [script.event() for _ in range(3)]
        assert script.end() == (0, "", "")
    assert [(event["event"], event["level"]) for event in events] == [
        ("listening", "info"),
        ("connected", "debug"),
        ("heartbeat", "info"),
        ("done", "info"),
    ]
    assert {(event["address"], event["cid"]) for event in events} == {(f"unix:{sock}", None)}
    heartbeat = events[2]
    fields = ["event", "time", "address", "cid", "peer", "pid", "uid", "gid", "byte"]
    assert [*heartbeat] == [*fields, "listening_seconds", "echo_seconds", "echoed", "level"]
    assert before < datetime.fromisoformat(heartbeat["time"]) < datetime.now(UTC)
    assert (heartbeat["peer"], heartbeat["echoed"]) == (None, True)
    who = {"pid": os.getpid(), "uid": os.geteuid(), "gid": os.getegid()}
    assert heartbeat | who == heartbeat
    assert 0 < heartbeat["echo_seconds"] < heartbeat["listening_seconds"] < PATIENCE
    assert not sock.exists()


def test_a_boot_has_four_lines_in_text(sock: Path) -> None:
    """By the installed script. tests/cli/test_logs.py has the fields."""
    with started("-l", f"unix:{sock}", command=INSTALLED) as script:
        assert beat(sock) == HEARTBEAT
        code, out, err = script.end()
    assert (code, err) == (0, "")
    for line, name in zip(
        out.splitlines(), ("listening", "connected", "heartbeat", "done"), strict=True
    ):
        assert f"Z nitro_{name} address=unix:{sock} " in line


def test_each_of_two_addresses_is_answered_once(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2_9000"
    addresses = [f"unix:{first}", f"hybrid:{tmp_path}/2:9000"]
    with started("-l", addresses[0], "--listen", addresses[1], "--format", "json") as script:
        assert [script.event()["address"] for _ in addresses] == addresses
        assert beat(second) == HEARTBEAT
        assert [script.event()["event"] for _ in range(3)] == ["connected", "heartbeat", "done"]
        assert script.popen.poll() is None
        assert first.exists()
        assert not second.exists()
        assert beat(first) == HEARTBEAT
        assert script.end()[0] == 0
    assert not first.exists()


def test_keep_answers_until_a_signal(sock: Path) -> None:
    options = ("--keep", "--handshake-timeout", "0.3", "--format", "json")
    with started("-l", f"unix:{sock}", *options) as script:
        assert script.event()["event"] == "listening"

        def told() -> tuple[str, str | None, int | None]:
            assert script.event()["event"] == "connected"
            event = script.event()
            return event["event"], event.get("reason"), event.get("byte")

        assert beat(sock, b"\x00") == b""
        assert told() == ("rejected", "wrong-byte", 0)
        with connected(sock):
            pass
        assert told() == ("disconnected", None, None)
        with connected(sock) as silent:
            assert silent.recv(1) == b""
        assert told() == ("rejected", "timeout", None)
        for _ in range(2):
            assert beat(sock) == HEARTBEAT
            assert told() == ("heartbeat", None, 0xB7)
        script.popen.send_signal(signal.SIGHUP)
        assert script.end() == (129, "", "")
    assert not sock.exists()


def test_one_silent_client_too_many_evicts_the_oldest(sock: Path) -> None:
    """And --any-byte echoes what is not a heartbeat."""
    options = ("--max-pending", "2", "--timeout", "30", "--any-byte", "--format", "json")
    with started("-l", f"unix:{sock}", *options) as script:
        with connected(sock) as oldest, connected(sock), connected(sock):
            assert oldest.recv(1) == b""
            assert [script.event()["event"] for _ in range(4)] == ["listening", *["connected"] * 3]
            assert script.event()["event"] == "evicted"
            assert beat(sock, b"\x42") == b"\x42"
        assert script.end()[0] == 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_from_the_start_on_end_it_cleanly(number: int, status: int, sock: Path) -> None:
    """The first comes while Python still loads trio."""
    with started("-l", f"unix:{sock}", "--quiet") as script:
        wait_for_file(sock)
        pidfd = os.pidfd_open(script.popen.pid)
        try:
            while not select.select([pidfd], [], [], 0.0005)[0]:
                script.popen.send_signal(number)
        finally:
            os.close(pidfd)
        assert script.end() == (status, "", "")
    assert not sock.exists()


def test_a_timeout_reports_what_came_instead_on_each_address(tmp_path: Path) -> None:
    heard, other, silent = (tmp_path / name for name in ("1", "2", "3"))
    listen = [arg for sock in (heard, other, silent) for arg in ("-l", f"unix:{sock}")]
    with started(*listen, "--timeout", "0.2", "--quiet") as script, ExitStack() as clients:
        beats, *wrong, closes, _ = (
            clients.enter_context(connected(sock)) for sock in (heard, *[other] * 4)
        )
        beats.sendall(HEARTBEAT)
        for client in wrong:
            client.sendall(b"\x00")
        closes.shutdown(socket.SHUT_WR)
        code, out, err = script.end()
    assert (code, out) == (124, "")
    assert str(heard) not in err
    first, _remedy, second, *_ = err.splitlines()
    assert first.startswith(f"nitrohb: no heartbeat on unix:{other} within 0.2 s: ")
    came = "2 sent 0x00 instead of 0xB7; 1 had sent nothing yet; 1 closed without a byte"
    assert first.endswith(came)
    nobody = f"nitrohb: no heartbeat on unix:{silent} within 0.2 s: nobody connected"
    assert second.startswith(f"{nobody}; {silent} has mode 600, ")


def test_timeout_with_keep_says_that_the_time_is_up(sock: Path) -> None:
    with ThreadPoolExecutor() as pool:
        client = pool.submit(beat, sock)
        code, out, err = nitrohb_here("-l", f"unix:{sock}", "--keep", "--timeout", "2", "--quiet")
        assert client.result() == HEARTBEAT
    assert (code, out) == (124, "")
    assert "timed out after 2 s" in err


def test_mode_and_group_of_the_socket_file(sock: Path) -> None:
    others = [group for group in os.getgroups() if group != os.getegid()]
    group = 4321 if os.geteuid() == 0 else next(iter(others), os.getegid())
    grouped = ("--socket-group", str(group), "--socket-mode", "660")
    for options, umask, mode, owner in (
        ((), 0, 0o600, os.getegid()),
        ((), 0o077, 0o600, os.getegid()),
        (("--socket-mode", "666"), 0o077, 0o666, os.getegid()),
        (grouped, 0o077, 0o660, group),
    ):
        before = os.umask(umask)
        try:
            status = status_of_socket_file(sock, *options)
        finally:
            os.umask(before)
        assert (stat.S_IMODE(status.st_mode), status.st_gid) == (mode, owner), options


def status_of_socket_file(sock: Path, *options: str) -> os.stat_result:
    def look() -> os.stat_result:
        assert beat(sock, b"\x00") == b""  # before that, the mode may still be on its way
        status = sock.stat()
        assert beat(sock) == HEARTBEAT
        return status

    with ThreadPoolExecutor() as pool:
        client = pool.submit(look)
        assert nitrohb_here("-l", f"unix:{sock}", "--quiet", *options) == (0, "", "")
        return client.result()


# Standard streams that cannot be used.


@pytest.mark.parametrize(
    ("how", "lines", "said"),
    [
        (">&-", 0, "stdout: it is closed; "),
        (">/dev/full", 0, "stdout: No space left on device (ENOSPC); "),
        ("2>&-", 4, ""),
        ("<&- >&- 2>&-", 0, ""),
    ],
)
def test_a_full_stream_delays_no_heartbeat(how: str, lines: int, said: str, sock: Path) -> None:
    with started("-l", f"unix:{sock}", command=redirected(how)) as script:
        assert beat(sock) == HEARTBEAT
        code, out, err = script.end()
    assert (code, len(out.splitlines())) == (0, lines)
    assert said in err
    assert len(err.splitlines()) == (2 if said else 0)
    assert not sock.exists()


def test_the_reader_of_stdout_leaves_when_no_descriptor_is_left(sock: Path) -> None:
    """Then nitrohb cannot open /dev/null either, but still answers heartbeats."""
    command = ("sh", "-c", 'ulimit -n 24; exec "$@"', "sh", *NITROHB)
    with started("-l", f"unix:{sock}", "--keep", command=command) as script:
        assert "listening" in script.line()
        assert script.popen.stdout is not None
        with ExitStack() as silent:
            for _ in range(40):
                silent.enter_context(connected(sock))
            script.popen.stdout.close()
            assert beat(sock) == HEARTBEAT
            assert beat(sock) == HEARTBEAT
        script.popen.terminate()
        _, err = script.popen.communicate(timeout=PATIENCE)
    assert script.popen.returncode == 143
    # Which comes first depends on how soon the server sees the connections.
    first, _, second, _ = err.decode().splitlines()
    broken, shortage = sorted((first, second), key=lambda line: "(EMFILE)" in line)
    assert "(EMFILE)" in shortage
    assert "stdout: Broken pipe (EPIPE); " in broken


def test_a_reader_of_stdout_that_does_not_read_delays_no_heartbeat(sock: Path) -> None:
    reader, writer = os.pipe()
    with open(reader, "rb"), open(writer, "wb", buffering=0) as full:
        os.set_blocking(writer, False)
        while full.write(bytes(4096)) is not None:
            pass
        os.set_blocking(writer, True)
        with started("-l", f"unix:{sock}", "--format", "json", stdout=writer) as script:
            assert beat(sock) == HEARTBEAT
            code, _, err = script.end()
    assert code == 0
    assert "dropped 4 lines for stdout" in json.loads(err)["message"]


def test_a_lost_socket_file_is_reported_although_no_events_are_printed(tmp_path: Path) -> None:
    sock = tmp_path / "vms" / "s"
    sock.parent.mkdir()
    with started("--keep", "--quiet", "-l", f"unix:{sock}") as script:
        assert beat(sock) == HEARTBEAT
        sock.unlink()
        sock.parent.rmdir()
        assert script.error_line().startswith(f"nitrohb: the socket file of unix:{sock} is gone")
        script.popen.terminate()
        assert script.end()[0] == 143


@pytest.mark.parametrize(("hard", "most"), [(4096, 1600), (1500, 1500)])
def test_the_soft_limit_of_descriptors_is_raised(hard: int, most: int, sock: Path) -> None:
    limits = f'ulimit -n {hard}; ulimit -Sn 1024; exec "$@"'
    args = ("--keep", "--quiet", "-l", f"unix:{sock}")
    with started(*args, command=("bash", "-c", limits, "-", *NITROHB)) as script:
        assert beat(sock) == HEARTBEAT  # so it is in the event loop
        allowed = Path(f"/proc/{script.popen.pid}/limits").read_text()
        script.popen.terminate()
        assert script.end()[0] == 143
    assert re.search(rf"^Max open files +{most} +{hard} ", allowed, re.MULTILINE)


@pytest.mark.parametrize("api", [False, True])
def test_a_low_descriptor_limit_is_reported_and_one_is_kept_for_a_heartbeat(
    api: bool, sock: Path
) -> None:
    """With each limit, nitrohb ends and prints why, or it answers. It warns of the exact limit."""
    args = ["--keep", "-l", f"unix:{sock}", *(["--api", f"unix:{sock}.api"] if api else [])]
    ends = list[str]()
    for limit in (5, *range(7, 15)):
        # Not with -W error: there trio leaves two sockets to the garbage collector.
        command = ("sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh", *INSTALLED)
        with started(*args, command=command) as script:
            if script.line():  # listening
                assert [beat(sock), beat(sock)] == [HEARTBEAT, HEARTBEAT]
                script.popen.terminate()
            code, _, err = script.end()
        assert not sock.exists()
        ends.append(f"{code}{'!' if err else ''}")
        if err:
            message, remedy = err.splitlines()[:2]
            assert message.startswith("nitrohb: ")
            # Python on Debian runs the C compiler for trio, and tempfile then gives this reason.
            assert "(EMFILE)" in message or "No usable temporary directory" in message
            assert "ulimit -n" in remedy
            assert len(err.splitlines()) <= 2 + 2 * api
    assert list(dict.fromkeys(ends)) == ["1!", "143!", "143"]


def test_every_command_that_listens_warns_of_a_local_vsock_namespace(
    sock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Linux 7.0 and later have them: tests/vsock/namespaces."""

    def is_isolated(_: Listener) -> bool:
        return True

    monkeypatch.setattr(Listener, "is_isolated", is_isolated)
    address = f"unix:{sock}"
    reason, remedy = LOCAL_ADVICE
    for command, argv in (("serve", ()), ("run", ("--", "true"))):
        _, _, err = nitrohb_here(command, "-l", address, "--timeout=0.01", *argv)
        assert err.splitlines()[:2] == [f"nitrohb: {address}: {reason}", remedy]
