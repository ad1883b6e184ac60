# SPDX-License-Identifier: Apache-2.0
"""``nitrohb serve``: answering, reporting, ending."""

import contextlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from .process import (
    HEARTBEAT,
    NITROHB,
    PATIENCE,
    beat,
    connected,
    nitrohb,
    redirected,
    started,
    wait_for_file,
)

INSTALLED = (str(Path(sys.executable).with_name("nitrohb")),)
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"
NUMBER = (int, float)


def test_json_tells_a_boot_in_four_events(sock: Path) -> None:
    with started("serve", "-l", f"unix:{sock}", "--format", "json") as script:
        before = datetime.now(UTC)
        events = [script.event()]
        assert beat(sock) == HEARTBEAT
        events += [script.event() for _ in range(3)]
        assert script.end() == (0, "", "")
    assert [event["event"] for event in events] == ["listening", "connected", "heartbeat", "done"]
    common = ["event", "time", "address", "cid"]
    peer = [*common, "peer"]
    own = [*peer, "byte", "listening_seconds", "echo_seconds", "echoed"]
    fields = [[*names, "level"] for names in (common, peer, own, common)]
    assert [list(event) for event in events] == fields
    assert [event["level"] for event in events] == ["info", "debug", "info", "info"]
    for event in events:
        assert event["address"] == f"unix:{sock}"
        assert event["cid"] is None
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", event["time"])
    assert before < datetime.fromisoformat(events[2]["time"]) < datetime.now(UTC)
    heartbeat = events[2]
    assert heartbeat["peer"] is None
    assert isinstance(heartbeat["listening_seconds"], NUMBER)
    assert isinstance(heartbeat["echo_seconds"], NUMBER)
    assert 0 < heartbeat["echo_seconds"] < heartbeat["listening_seconds"] < PATIENCE
    assert heartbeat["echoed"] is True
    assert not sock.exists()


def test_text_tells_a_boot_in_four_lines(sock: Path) -> None:
    with started("serve", "-l", f"unix:{sock}") as script:
        assert beat(sock) == HEARTBEAT
        code, out, err = script.end()
    assert (code, err) == (0, "")
    address = re.escape(f"unix:{sock}")
    seconds = r"\d+\.\d{6}"
    assert re.fullmatch(
        rf"{TIME} nitro_listening address={address} level=info\n"
        rf"{TIME} nitro_connected address={address} level=debug\n"
        rf"{TIME} nitro_heartbeat address={address} byte=0xb7 listening_seconds={seconds}"
        rf" echo_seconds={seconds} echoed=true level=info\n"
        rf"{TIME} nitro_done address={address} level=info\n",
        out,
    )


@pytest.mark.parametrize("command", [NITROHB, INSTALLED], ids=["python -m nitrohb", "nitrohb"])
def test_bare_options_are_those_of_serve(command: tuple[str, ...], sock: Path) -> None:
    with started("-l", f"unix:{sock}", "--format", "json", command=command) as script:
        assert beat(sock) == HEARTBEAT
        code, out, err = script.end()
    assert (code, err) == (0, "")
    assert [json.loads(line)["event"] for line in out.splitlines()] == [
        "listening",
        "connected",
        "heartbeat",
        "done",
    ]


def test_quiet_prints_nothing(sock: Path) -> None:
    with started("-l", f"unix:{sock}", "--quiet") as script:
        assert beat(sock) == HEARTBEAT
        assert script.end() == (0, "", "")


def test_hybrid_address_listens_on_the_socket_of_that_port(sock: Path) -> None:
    with started("-l", f"hybrid:{sock}:9000", "--format", "json") as script:
        assert beat(Path(f"{sock}_9000")) == HEARTBEAT
        assert script.event()["address"] == f"hybrid:{sock}:9000"
        assert script.end()[0] == 0


def test_each_of_two_addresses_is_answered_once(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    addresses = [f"unix:{first}", f"unix:{second}"]
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


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_keep_goes_on_until_a_signal(number: int, status: int, sock: Path) -> None:
    with started("-l", f"unix:{sock}", "--keep", "--format", "json") as script:
        assert [beat(sock) for _ in range(2)] == [HEARTBEAT, HEARTBEAT]
        events = [script.event()["event"] for _ in range(5)]
        script.popen.send_signal(number)
        assert script.end() == (status, "", "")
    assert events == ["listening", "connected", "heartbeat", "connected", "heartbeat"]
    assert not sock.exists()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_while_python_still_loads_trio_ends_it_cleanly(
    number: int, status: int, sock: Path
) -> None:
    with started("-l", f"unix:{sock}", "--quiet") as script:
        wait_for_file(sock)
        script.popen.send_signal(number)
        assert script.end() == (status, "", "")
    assert not sock.exists()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_after_the_first_are_harmless(number: int, status: int, sock: Path) -> None:
    with started("-l", f"unix:{sock}", "--quiet") as script:
        wait_for_file(sock)
        until = time.monotonic() + PATIENCE
        while script.popen.poll() is None:
            assert time.monotonic() < until
            script.popen.send_signal(number)
            time.sleep(0.0005)
        assert script.end() == (status, "", "")
    assert not sock.exists()


def test_output_that_is_lost_when_no_descriptor_is_left(sock: Path) -> None:
    """Then there is none to be had for /dev/null either, and the heartbeats go on all the same."""
    command = ("sh", "-c", 'ulimit -n 24; exec "$@"', "sh", *NITROHB)
    with started("-l", f"unix:{sock}", "--keep", command=command) as script:
        assert "listening" in script.line()
        assert script.popen.stdout is not None
        with contextlib.ExitStack() as silent:
            for _ in range(40):
                silent.enter_context(connected(sock))
            script.popen.stdout.close()
            assert beat(sock) == HEARTBEAT
            assert beat(sock) == HEARTBEAT
        script.popen.terminate()
        _, err = script.popen.communicate(timeout=PATIENCE)
    assert script.popen.returncode == 143
    assert err == b"nitrohb: stdout: Broken pipe; nothing more is printed there\n"


def test_signal_that_was_ignored_from_the_start_stays_ignored(sock: Path) -> None:
    command = ("sh", "-c", 'trap "" INT; exec "$@"', "sh", *NITROHB)
    with started("-l", f"unix:{sock}", "--quiet", command=command) as script:
        wait_for_file(sock)
        script.popen.send_signal(signal.SIGINT)
        assert beat(sock) == HEARTBEAT
        assert script.end() == (0, "", "")


def test_wrong_byte_is_closed_unanswered_and_the_next_client_is_answered(sock: Path) -> None:
    with started("-l", f"unix:{sock}", "--format", "json") as script:
        assert beat(sock, b"\x00") == b""
        _, _, rejected = (script.event() for _ in range(3))
        assert (rejected["event"], rejected["reason"], rejected["byte"]) == (
            "rejected",
            "wrong-byte",
            0,
        )
        assert beat(sock) == HEARTBEAT
        assert script.end()[0] == 0


def test_client_that_closes_without_a_byte_is_reported_and_the_next_is_answered(
    sock: Path,
) -> None:
    with started("-l", f"unix:{sock}") as script:
        with connected(sock):
            pass
        lines = [script.line() for _ in range(3)]
        assert beat(sock) == HEARTBEAT
        assert script.end()[0] == 0
    assert re.fullmatch(rf"{TIME} nitro_disconnected address=unix:\S+ level=warning\n", lines[2])


def test_any_byte_is_echoed(sock: Path) -> None:
    with started("-l", f"unix:{sock}", "--any-byte", "--quiet") as script:
        assert beat(sock, b"\x42") == b"\x42"
        assert script.end() == (0, "", "")


def test_silent_client_is_closed_after_the_handshake_timeout(sock: Path) -> None:
    args = ("-l", f"unix:{sock}", "--handshake-timeout", "0.2", "--format", "json")
    with started(*args) as script:
        with connected(sock) as client:
            assert client.recv(1) == b""
        rejected = [script.event() for _ in range(3)][2]
        assert (rejected["event"], rejected["reason"], rejected["byte"]) == (
            "rejected",
            "timeout",
            None,
        )
        assert beat(sock) == HEARTBEAT
        assert script.end()[0] == 0


def test_one_silent_client_too_many_evicts_the_oldest(sock: Path) -> None:
    args = ("-l", f"unix:{sock}", "--max-pending", "2", "--timeout", "30")
    with started(*args) as script:
        with connected(sock) as oldest, connected(sock), connected(sock):
            assert oldest.recv(1) == b""
            lines = [script.line() for _ in range(5)]
            assert "evicted" in lines[4]
            assert beat(sock) == HEARTBEAT
        assert script.end()[0] == 0


def test_timeout_when_nobody_connected_tells_how_to_try(sock: Path) -> None:
    code, out, err = nitrohb("-l", f"unix:{sock}", "--timeout", "0.3", "--quiet")
    assert (code, out) == (124, "")
    assert err == (
        f"nitrohb: no heartbeat on unix:{sock} within 0.3 s: nobody connected\n"
        "Does the enclave run, and do its connections arrive here?"
        f" To try this side, on this machine: nitrohb send unix:{sock}\n"
        f"To check this machine: nitrohb doctor -l unix:{sock}\n"
    )
    assert not sock.exists()


def test_timeout_tells_what_came_instead(sock: Path) -> None:
    with started("-l", f"unix:{sock}", "--timeout", "1.5", "--quiet") as script:
        assert [beat(sock, b"\x00"), beat(sock, b"\x00")] == [b"", b""]
        with connected(sock) as client:
            client.shutdown(socket.SHUT_WR)
            assert client.recv(1) == b""
        with connected(sock):  # still silent when the time is up
            code, _, err = script.end()
    assert code == 124
    assert err == (
        f"nitrohb: no heartbeat on unix:{sock} within 1.5 s: of the connections that came,"
        " 2 sent 0x00 instead of 0xB7; 1 had sent nothing yet; 1 closed without a byte\n"
    )


def test_timeout_tells_of_the_silent_addresses_only(tmp_path: Path) -> None:
    heard, silent = tmp_path / "1", tmp_path / "2"
    args = ("-l", f"unix:{heard}", "-l", f"unix:{silent}", "--timeout", "1", "--quiet")
    with started(*args) as script:
        assert beat(heard) == HEARTBEAT
        code, _, err = script.end()
    assert code == 124
    assert f"no heartbeat on unix:{silent} within 1 s: nobody connected" in err
    assert str(heard) not in err


def test_timeout_with_keep_says_that_the_time_is_up(sock: Path) -> None:
    with started("-l", f"unix:{sock}", "--keep", "--timeout", "1", "--quiet") as script:
        assert beat(sock) == HEARTBEAT
        assert script.end() == (124, "", "nitrohb: the time is up, after 1 s\n")


@pytest.mark.parametrize(
    ("options", "umask", "mode"),
    [((), 0, 0o600), ((), 0o077, 0o600), (("--socket-mode", "666"), 0o077, 0o666)],
)
def test_mode_of_the_socket_file(
    options: tuple[str, ...], umask: int, mode: int, sock: Path
) -> None:
    with started("-l", f"unix:{sock}", *options, umask=umask) as script:
        script.line()  # before it, the mode may still be on its way
        status = sock.stat()
        script.popen.terminate()
        assert script.end()[0] == 143
    assert stat.S_IMODE(status.st_mode) == mode


def test_group_of_the_socket_file(sock: Path) -> None:
    other = [group for group in os.getgroups() if group != os.getegid()]
    group = 4321 if os.geteuid() == 0 else next(iter(other), os.getegid())
    args = ("-l", f"unix:{sock}", "--socket-group", str(group), "--socket-mode", "660")
    with started(*args) as script:
        script.line()
        status = sock.stat()
        script.popen.terminate()
        assert script.end()[0] == 143
    assert (status.st_gid, stat.S_IMODE(status.st_mode)) == (group, 0o660)


def closed_output(how: str, sock: Path) -> tuple[int, str, str]:
    with started("-l", f"unix:{sock}", command=redirected(how)) as script:
        assert beat(sock) == HEARTBEAT
        return script.end()


@pytest.mark.parametrize(
    ("how", "why"), [(">&-", "it is closed"), (">/dev/full", "No space left on device")]
)
def test_stdout_that_takes_nothing_costs_no_heartbeat(how: str, why: str, sock: Path) -> None:
    code, _, err = closed_output(how, sock)
    assert (code, err) == (0, f"nitrohb: stdout: {why}; nothing more is printed there\n")


def test_reader_of_stdout_that_goes_away_costs_no_heartbeat(sock: Path) -> None:
    with started("-l", f"unix:{sock}", stdout=subprocess.PIPE) as script:
        assert "listening" in script.line()
        assert script.popen.stdout is not None
        script.popen.stdout.close()
        assert beat(sock) == HEARTBEAT
        code, _, err = script.end()
    assert (code, err) == (
        0,
        "nitrohb: stdout: Broken pipe; nothing more is printed there\n",
    )


def test_reader_of_stdout_that_does_not_read_costs_no_heartbeat(sock: Path) -> None:
    reader, writer = os.pipe()
    with open(reader, "rb"), open(writer, "wb", buffering=0) as full:
        os.set_blocking(writer, False)
        while full.write(bytes(4096)) is not None:
            pass
        os.set_blocking(writer, True)
        with started("-l", f"unix:{sock}", "--format", "json", stdout=writer) as script:
            assert beat(sock) == HEARTBEAT
            assert script.end() == (
                0,
                "",
                "nitrohb: stdout: nobody reads it; until somebody does, lines are left out\n"
                "nitrohb: stdout: 4 lines were left out, while nobody read it\n",
            )


def test_closed_stderr_costs_nothing(sock: Path) -> None:
    code, out, _ = closed_output("2>&-", sock)
    assert (code, len(out.splitlines())) == (0, 4)


def test_every_standard_stream_closed_costs_no_heartbeat(sock: Path) -> None:
    assert closed_output("<&- >&- 2>&-", sock) == (0, "", "")
    assert not sock.exists()


@pytest.mark.parametrize("limit", range(6, 16))
def test_lack_of_descriptors_at_the_start_is_told_in_words(limit: int, sock: Path) -> None:
    # Not with -W error: trio leaves two sockets to the garbage collector there.
    command = ("sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh", *INSTALLED)
    args = ("-l", f"unix:{sock}", "--quiet", "--timeout", "0.1")
    with started(*args, command=command) as script:
        code, out, err = script.end()
    assert out == ""
    if code != 124:
        assert code == 1
        message, remedy = err.splitlines()
        assert message.startswith("nitrohb: ")
        assert message.endswith("this process has too many open files (EMFILE)")
        assert remedy == "Raise its limit (ulimit -n)."
    assert not sock.exists()
