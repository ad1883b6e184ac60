# SPDX-License-Identifier: Apache-2.0
"""``nitrohb run``: what comes first, what becomes of the other, and that nothing is left.

The command has our stdout and stderr, as have all whom it starts. So a test that has read both to
their end, as ``Script.end()`` does, has proved that none of them is left. A command that waits
reads stdin, which stays open until then.
"""

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from .process import (
    HEARTBEAT,
    NITROHB,
    PATIENCE,
    Script,
    beat,
    connected,
    listening,
    nitrohb,
    redirected,
    started,
    wait_for,
)

SIGNALS = [
    (signal.SIGHUP, 129),
    (signal.SIGINT, 130),
    (signal.SIGQUIT, 131),
    (signal.SIGUSR1, 138),
    (signal.SIGUSR2, 140),
    (signal.SIGTERM, 143),
]

PYTHON = (sys.executable, "-I", "-S", "-c")

BEAT = """\
import os, socket
sock = socket.socket(socket.AF_UNIX)
sock.connect(os.environ["NITROHB_LISTEN"].partition(":")[2])
sock.send(b"\\xb7")
"""

BEAT_WHEN_TOLD = f"""\
import os, sys
print(os.getpid(), flush=True)
sys.stdin.readline()
{BEAT}"""


def running(
    sock: Path, *options: str, shell: str, command: tuple[str, ...] = NITROHB
) -> AbstractContextManager[Script]:
    """Run a piece of shell, whose stdin is a pipe."""
    args = ("run", "-l", f"unix:{sock}", *options, "--", "sh", "-c", shell)
    return started(*args, command=command, stdin=subprocess.PIPE)


def events(err: str) -> list[str]:
    return [json.loads(line)["event"] for line in err.splitlines()]


def write(script: Script, text: str) -> None:
    assert script.popen.stdin is not None
    script.popen.stdin.write(text.encode())


def end(script: Script) -> tuple[int, str, str]:
    """Wait for its end, while stdin stays open."""
    script.popen.wait(PATIENCE)
    return script.end()


def wait_for_end_of(pid: int) -> None:
    """Wait until a process has ended, even if its parent does not look."""
    fd = os.pidfd_open(pid)
    try:
        assert select.select([fd], [], [], PATIENCE)[0]
    finally:
        os.close(fd)


# The heartbeat comes.


def test_heartbeat_and_then_the_end_of_the_command(sock: Path) -> None:
    with running(sock, "--format", "json", shell="cat; exit 3") as script:
        assert script.error_event() == "listening"
        assert beat(sock) == HEARTBEAT
        assert [script.error_event() for _ in range(3)] == ["connected", "heartbeat", "done"]
        assert not sock.exists()
        assert script.popen.poll() is None
        assert script.end() == (3, "", "")


def test_command_that_boots_its_enclave_where_the_environment_says(sock: Path) -> None:
    send = f'"{NITROHB[0]}" -m nitrohb send "$NITROHB_LISTEN"'
    with running(sock, "--format", "json", shell=f"{send}; exit 4") as script:
        code, out, err = script.end()
    assert code == 4
    assert re.fullmatch(rf"unix:{sock} answered in .* ms\n", out)
    assert events(err) == ["listening", "connected", "heartbeat", "done"]
    assert not sock.exists()


def test_each_address_is_named_and_awaited(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    options = ("-l", f"hybrid:{second}:9000", "--quiet")
    shell = 'for address in $NITROHB_LISTEN; do echo "($address)"; done; cat'
    with running(first, *options, shell=shell) as script:
        assert script.line() == f"(unix:{first})\n"
        assert script.line() == f"(hybrid:{second}:9000)\n"
        assert beat(Path(f"{second}_9000")) == HEARTBEAT
        assert beat(first) == HEARTBEAT
        assert script.end() == (0, "", "")


def test_address_is_named_for_a_command_in_another_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    send = f'"{NITROHB[0]}" -m nitrohb send "$NITROHB_LISTEN"'
    with running(Path("a space"), "--quiet", shell=f"cd /; {send}") as script:
        code, out, err = script.end()
    assert (code, err) == (0, "")
    assert out.startswith(f"unix:{tmp_path}/a space answered in ")


def test_inherited_socket_is_named_by_where_it_is_bound(sock: Path) -> None:
    with listening(sock) as server:
        fd = server.fileno()
        send = f'"{NITROHB[0]}" -m nitrohb send "$NITROHB_LISTEN"'
        args = ("run", "--quiet", "-l", f"fd:{fd}", "--", "sh", "-c", send)
        with started(*args, pass_fds=(fd,)) as script:
            code, out, err = script.end()
    assert (code, err) == (0, "")
    assert out.startswith(f"unix:{sock} answered in ")


def test_heartbeat_while_python_still_loads_trio_is_answered(sock: Path) -> None:
    with running(sock, "--quiet", shell="cat") as script:
        assert beat(sock) == HEARTBEAT  # as soon as the socket is there
        assert script.end() == (0, "", "")


def test_heartbeat_just_before_the_end_of_the_command_counts(sock: Path) -> None:
    """Even if both are seen at once, as by a nitrohb that could not look meanwhile."""
    args = ("run", "-l", f"unix:{sock}", "--format", "json", "--", *PYTHON, BEAT_WHEN_TOLD)
    with started(*args, stdin=subprocess.PIPE) as script:
        pid = int(script.line())
        script.popen.send_signal(signal.SIGSTOP)
        write(script, "\n")
        wait_for_end_of(pid)
        script.popen.send_signal(signal.SIGCONT)
        code, out, err = script.end()
    assert (code, out) == (0, "")
    assert events(err) == ["listening", "connected", "heartbeat", "done"]


def test_keep_answers_until_the_command_ends(sock: Path) -> None:
    with running(sock, "--keep", "--format", "json", shell="cat; exit 3") as script:
        assert [beat(sock) for _ in range(2)] == [HEARTBEAT, HEARTBEAT]
        assert [script.error_event() for _ in range(5)] == [
            "listening",
            "connected",
            "heartbeat",
            "connected",
            "heartbeat",
        ]
        assert script.end() == (3, "", "")
    assert not sock.exists()


# The command ends first.


@pytest.mark.parametrize(
    ("shell", "status"),
    [("exit 0", "0"), ("exit 9", "9"), ("kill -9 $$", "137 (SIGKILL)"), ("exit 255", "255")],
)
def test_command_that_ends_before_its_heartbeat(shell: str, status: str, sock: Path) -> None:
    with running(sock, "--quiet", shell=shell) as script:
        assert script.end() == (
            125,
            "",
            f"nitrohb: the command ended with status {status} before its heartbeat\n"
            f"nitrohb: no heartbeat on unix:{sock} until then: nobody connected\n",
        )
    assert not sock.exists()


def test_command_that_ends_is_told_what_came_instead_of_its_heartbeat(sock: Path) -> None:
    with running(sock, "--quiet", shell="cat; exit 2") as script:
        assert beat(sock, b"\0") == b""
        with connected(sock):
            code, _, err = script.end()
    assert code == 125
    first, second = err.splitlines()
    assert first == "nitrohb: the command ended with status 2 before its heartbeat"
    assert second.startswith(
        f"nitrohb: no heartbeat on unix:{sock} until then: of the connections that came,"
    )
    assert "1 sent 0x00 instead of 0xB7" in second


def test_command_that_ends_when_one_of_two_addresses_had_its_heartbeat(tmp_path: Path) -> None:
    heard, silent = tmp_path / "1", tmp_path / "2"
    with running(heard, "-l", f"unix:{silent}", "--quiet", shell="cat") as script:
        assert beat(heard) == HEARTBEAT
        code, _, err = script.end()
    assert code == 125
    assert f"no heartbeat on unix:{silent} until then" in err
    assert str(heard) not in err


def test_keep_does_not_mind_a_command_without_a_heartbeat(sock: Path) -> None:
    with running(sock, "--keep", "--quiet", shell="exit 9") as script:
        assert script.end() == (9, "", "")
    assert not sock.exists()


def test_command_whose_parent_ignored_the_end_of_children(sock: Path) -> None:
    command = ("sh", "-c", 'trap "" CHLD; exec "$@"', "sh", *NITROHB)
    with running(sock, "--keep", "--quiet", shell="exit 9", command=command) as script:
        assert script.end() == (9, "", "")


# The time is up.


def test_timeout_ends_the_command(sock: Path) -> None:
    with running(sock, "--timeout", "0.3", "--quiet", shell="exec tail -f /dev/null") as script:
        assert end(script) == (
            124,
            "",
            f"nitrohb: no heartbeat on unix:{sock} within 0.3 s: nobody connected\n"
            "Does the enclave run, and do its connections arrive here?"
            f" To try this side, on this machine: nitrohb send unix:{sock}\n"
            f"To check this machine: nitrohb doctor -l unix:{sock}\n",
        )
    assert not sock.exists()


def test_timeout_is_told_before_the_command_that_ends_itself_in_its_own_way(sock: Path) -> None:
    shell = 'trap "echo told >&2; exit 5" TERM; read never'
    with running(sock, "--timeout", "1", shell=shell) as script:
        assert "listening" in script.error_line()
        assert "within 1 s: nobody connected" in script.error_line()
        assert "Does the enclave run" in script.error_line()
        assert "nitrohb doctor" in script.error_line()
        assert script.error_line() == "told\n"
        assert end(script) == (124, "", "")


def test_timeout_kills_a_command_that_does_not_want_to_end(sock: Path) -> None:
    shell = 'trap "" TERM; exec tail -f /dev/null'
    options = ("--timeout", "1", "--kill-after", "0.1", "--quiet")
    with running(sock, *options, shell=shell) as script:
        code, out, err = end(script)
    assert (code, out) == (124, "")
    assert "within 1 s" in err


def test_timeout_after_every_heartbeat_has_come_is_none(sock: Path) -> None:
    with running(sock, "--timeout", "30", "--quiet", shell="cat; exit 3") as script:
        assert beat(sock) == HEARTBEAT
        assert script.end() == (3, "", "")


# A signal comes.


@pytest.mark.parametrize(("number", "status"), SIGNALS)
@pytest.mark.parametrize("heartbeat", [False, True])
def test_signal_is_passed_on(heartbeat: bool, number: int, status: int, sock: Path) -> None:
    shell = "ulimit -c 0; echo ready; exec tail -f /dev/null"
    with running(sock, "--quiet", shell=shell) as script:
        assert script.line() == "ready\n"
        if heartbeat:
            assert beat(sock) == HEARTBEAT
        script.popen.send_signal(number)
        assert end(script) == (status, "", "")
    assert not sock.exists()


@pytest.mark.parametrize(("number", "_status"), SIGNALS)
def test_command_that_handles_a_signal_has_its_own_status(
    number: signal.Signals, _status: int, sock: Path
) -> None:
    name = number.name.removeprefix("SIG")
    shell = f'trap "echo bye; exit 7" {name}; echo ready; read never'
    with running(sock, "--quiet", shell=shell) as script:
        assert script.line() == "ready\n"
        script.popen.send_signal(number)
        assert end(script) == (7, "bye\n", "")


def test_command_that_ignores_sigterm_is_killed(sock: Path) -> None:
    shell = 'trap "" TERM; trap "echo reloaded" HUP; echo ready; while :; do read never; done'
    with running(sock, "--quiet", "--kill-after", "0.1", shell=shell) as script:
        assert script.line() == "ready\n"
        script.popen.send_signal(signal.SIGHUP)  # which is not what it ends by
        assert script.line() == "reloaded\n"
        script.popen.terminate()
        assert end(script) == (143, "", "")
    assert not sock.exists()


@pytest.mark.parametrize(("number", "_status"), SIGNALS[:-1])
def test_command_that_ends_well_after_a_signal_has_not_booted_for_that(
    number: signal.Signals, _status: int, sock: Path
) -> None:
    """The signal told it to reload, say."""
    name = number.name.removeprefix("SIG")
    shell = f'trap "echo reloaded" {name}; echo ready; read line || read line'
    with running(sock, "--quiet", shell=shell) as script:
        assert script.line() == "ready\n"
        script.popen.send_signal(number)
        assert script.line() == "reloaded\n"
        write(script, "\n")
        code, _, err = script.end()
    assert code == 125
    assert err.startswith("nitrohb: the command ended with status 0 before its heartbeat\n")


def test_command_that_ends_well_when_it_is_told_to_has_done_so(sock: Path) -> None:
    shell = 'trap "exit 0" TERM; echo ready; read never'
    with running(sock, "--quiet", shell=shell) as script:
        assert script.line() == "ready\n"
        script.popen.terminate()
        assert end(script) == (0, "", "")


def test_each_signal_is_passed_on(sock: Path) -> None:
    shell = 'trap "echo one" INT; trap "exit 8" TERM; echo ready; while :; do read never; done'
    with running(sock, "--quiet", shell=shell) as script:
        for said in ("ready\n", "one\n", "one\n"):
            assert script.line() == said
            script.popen.send_signal(signal.SIGINT)
        assert script.line() == "one\n"
        script.popen.terminate()
        assert end(script) == (8, "", "")


def test_signals_without_number_do_no_harm(sock: Path) -> None:
    shell = 'trap "exit 7" TERM; echo ready; read never'
    with running(sock, "--quiet", shell=shell) as script:
        assert script.line() == "ready\n"
        until_end = os.pidfd_open(script.popen.pid)
        try:
            while not select.select([until_end], [], [], 0.0005)[0]:
                script.popen.terminate()
        finally:
            os.close(until_end)
        assert end(script) == (7, "", "")
    assert not sock.exists()


@pytest.mark.parametrize(("number", "status"), SIGNALS)
def test_signal_while_python_still_loads_trio(number: int, status: int, sock: Path) -> None:
    with running(sock, "--quiet", shell="exec tail -f /dev/null") as script, connected(sock):
        script.popen.send_signal(number)
        assert end(script) == (status, "", "")
    assert not sock.exists()


def test_kill_of_nitrohb_itself_leaves_the_command_alone(sock: Path) -> None:
    """As documented: there is no way to tell it that would not endanger it otherwise."""
    with running(sock, shell='echo ready; read line; echo "$line"') as script:
        assert script.line() == "ready\n"
        script.popen.kill()
        script.popen.wait(PATIENCE)
        write(script, "still here\n")
        assert script.line() == "still here\n"
        code, out, _ = script.end()
    assert (code, out) == (-9, "")


# A terminal.


@contextmanager
def on_terminal(*args: str, command: tuple[str, ...] = NITROHB) -> Generator[tuple[Script, int]]:
    """Start nitrohb as a shell would, on a terminal, and have the end at which a person sits."""
    ours, theirs = os.openpty()
    setsid = ("setsid", "--ctty", *command)
    try:
        with started(*args, command=setsid, stdin=theirs, new_session=False) as script:
            os.close(theirs)
            yield script, ours
    finally:
        os.close(ours)


def test_command_reads_from_the_terminal(sock: Path) -> None:
    args = ("run", "--keep", "--quiet", "-l", f"unix:{sock}", "--", "sh", "-c")
    with on_terminal(*args, 'read line; echo "got $line"') as (script, terminal):
        os.write(terminal, b"it\n")
        assert end(script) == (0, "got it\n", "")


KEYS = [(signal.SIGINT, b"\x03"), (signal.SIGQUIT, b"\x1c")]

SAYS_WHAT_COMES = """\
trap "echo HUP" HUP; trap "echo INT" INT; trap "echo QUIT" QUIT; trap "echo bye; exit 5" TERM
tail -f /dev/null & echo ready; while kill -0 $!; do wait; done
"""


@pytest.mark.parametrize(("number", "key"), KEYS)
def test_key_that_sends_a_signal_sends_the_command_one(
    number: signal.Signals, key: bytes, sock: Path
) -> None:
    """A second one from us would interrupt what it does about the first."""
    args = ("run", "--quiet", "-l", f"unix:{sock}", "--", "sh", "-c", SAYS_WHAT_COMES)
    with on_terminal(*args) as (script, terminal):
        assert script.line() == "ready\n"
        script.popen.send_signal(signal.SIGHUP)
        assert script.line() == "HUP\n"  # so that it is no more in the middle of starting it
        script.popen.send_signal(signal.SIGSTOP)  # so that two cannot arrive as one
        os.write(terminal, key)
        assert script.line() == f"{number.name.removeprefix('SIG')}\n"
        script.popen.send_signal(signal.SIGCONT)
        script.popen.terminate()
        assert end(script) == (5, "bye\n", "")
    assert not sock.exists()


@pytest.mark.parametrize(("number", "key"), KEYS)
def test_key_ends_a_command_in_a_process_group_of_its_own(
    number: signal.Signals, key: bytes, sock: Path
) -> None:
    """The terminal does not send it a signal: we do. timeout(1) makes itself such a group."""
    shell = ("sh", "-c", "ulimit -c 0; echo ready; exec tail -f /dev/null")
    args = ("run", "--quiet", "-l", f"unix:{sock}", "--", "timeout", "1000", *shell)
    with on_terminal(*args) as (script, terminal):
        assert script.line() == "ready\n"
        os.write(terminal, key)
        assert end(script) == (128 + number, "", "")


@pytest.mark.parametrize(("number", "_key"), KEYS)
def test_signal_that_no_key_can_have_sent_is_passed_on(
    number: signal.Signals, _key: bytes, sock: Path
) -> None:
    """It has a terminal, but is in the background."""
    job = ("sh", "-m", "-c", '"$@" & echo $!; wait $!', "sh", *NITROHB)
    args = ("run", "--quiet", "-l", f"unix:{sock}", "--", "sh", "-c", SAYS_WHAT_COMES)
    with on_terminal(*args, command=job) as (script, _):
        pid = int(script.line())
        assert script.line() == "ready\n"
        os.kill(pid, number)
        assert script.line() == f"{number.name.removeprefix('SIG')}\n"
        os.kill(pid, signal.SIGTERM)
        assert end(script) == (5, "bye\n", "")


# What the command leaves behind.


DESCENDANTS = {
    "child": "echo ready; tail -f /dev/null; true",
    "background": "tail -f /dev/null & echo ready; wait",
    "daemon": "(setsid tail -f /dev/null &); echo ready; read never",
    "generations": "sh -c 'sh -c \"echo ready; tail -f /dev/null; true\"; true'; true",
}


@pytest.mark.parametrize("shell", DESCENDANTS.values(), ids=DESCENDANTS)
def test_timeout_leaves_nobody_behind(shell: str, sock: Path) -> None:
    with running(sock, "--timeout", "1", "--quiet", shell=shell) as script:
        code, out, _ = end(script)
    assert (code, out) == (124, "ready\n")


@pytest.mark.parametrize("shell", DESCENDANTS.values(), ids=DESCENDANTS)
def test_sigterm_leaves_nobody_behind(shell: str, sock: Path) -> None:
    with running(sock, "--quiet", shell=shell) as script:
        assert script.line() == "ready\n"
        script.popen.terminate()
        assert end(script) == (143, "", "")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT])
@pytest.mark.parametrize("shell", [DESCENDANTS["background"], DESCENDANTS["daemon"]])
def test_signal_that_the_command_dies_of_leaves_nobody_behind(
    shell: str, number: signal.Signals, sock: Path
) -> None:
    with running(sock, "--quiet", shell=f"ulimit -c 0; {shell}") as script:
        assert script.line() == "ready\n"
        script.popen.send_signal(number)
        assert end(script) == (128 + number, "", "")


@pytest.mark.parametrize("shell", DESCENDANTS.values(), ids=DESCENDANTS)
def test_kill_leaves_nobody_behind(shell: str, sock: Path) -> None:
    options = ("--quiet", "--kill-after", "0.1")
    with running(sock, *options, shell=f'trap "" TERM; {shell}') as script:
        assert script.line() == "ready\n"
        script.popen.terminate()
        assert end(script) == (143, "", "")


def test_what_is_left_may_have_to_be_killed_though_the_command_has_ended(sock: Path) -> None:
    shell = 'trap "exit 5" TERM; (trap "" TERM; echo ready; exec tail -f /dev/null) & wait'
    with running(sock, "--quiet", "--kill-after", "0.1", shell=shell) as script:
        assert script.line() == "ready\n"
        script.popen.terminate()
        assert end(script) == (5, "", "")


READS_AND_SAYS = '(read line <&3; echo "$line") &'


def test_what_a_command_leaves_behind_that_ends_by_itself_goes_on(sock: Path) -> None:
    """A launcher may start a VMM, and be done."""
    with running(sock, "--keep", "--quiet", shell=f"exec 3<&0; {READS_AND_SAYS} exit 3") as script:
        assert script.popen.wait(PATIENCE) == 3
        write(script, "still here\n")
        assert script.line() == "still here\n"


def test_child_that_is_not_the_command_s_goes_on(sock: Path) -> None:
    """It was there before, say in a script that became nitrohb by exec."""
    before = ("sh", "-c", f'exec 3<&0; {READS_AND_SAYS} exec "$@" </dev/null', "sh", *NITROHB)
    shell = "tail -f /dev/null; true"
    with running(sock, "--timeout", "0.3", "--quiet", shell=shell, command=before) as script:
        assert script.popen.wait(PATIENCE) == 124
        write(script, "still here\n")
        assert script.line() == "still here\n"


def test_orphan_that_ends_does_not_stay_as_a_zombie(sock: Path) -> None:
    shell = 'exec 3<&0; (sh -c "echo \\$\\$; read line <&3" &); exec tail -f /dev/null'
    with running(sock, "--quiet", shell=shell) as script:
        pid = int(script.line())
        write(script, "\n")
        wait_for(lambda: not os.path.exists(f"/proc/{pid}"))
        script.popen.terminate()
        assert end(script) == (143, "", "")


def test_orphans_that_end_do_not_hide_the_end_of_the_command(sock: Path) -> None:
    shell = "for i in $(seq 100); do (true &); done; exit 3"
    with running(sock, "--keep", "--quiet", shell=shell) as script:
        assert script.end() == (3, "", "")


UNSHARE = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc")


@pytest.mark.skipif(
    shutil.which("unshare") is None or subprocess.run([*UNSHARE, "true"]).returncode != 0,
    reason="needs unshare(1), and a system that lets everybody make namespaces",
)
def test_first_process_of_a_container(sock: Path) -> None:
    shell = 'trap "echo bye; exit 7" TERM; (setsid sleep 1000 &); kill -TERM $PPID; read never'
    with running(sock, "--quiet", shell=f"echo $PPID; {shell}", command=(*UNSHARE, *NITROHB)) as it:
        assert end(it) == (7, "1\nbye\n", "")


# What the command has of us.


def test_streams_are_the_command_s_and_events_go_to_stderr(sock: Path) -> None:
    shell = "echo first >&2; cat; exit 0"
    with running(sock, shell=shell) as script:
        assert re.fullmatch(
            rf"\S+ nitro_listening address=unix:{sock} level=info\n", script.error_line()
        )
        assert script.error_line() == "first\n"
        write(script, "through\n")
        assert script.line() == "through\n"
        assert beat(sock) == HEARTBEAT
        code, out, err = script.end()
    assert (code, out, len(err.splitlines())) == (0, "", 3)


FIRST_STDERR = """\
import os, sys
try:
    os.write(2, b"x")
except OSError as error:
    print(error.strerror)
"""


@pytest.mark.parametrize(
    ("how", "why"), [("2>&-", "Bad file descriptor"), ("2>/dev/full", "No space left on device")]
)
def test_stderr_that_takes_nothing_is_the_command_s_all_the_same(
    how: str, why: str, sock: Path
) -> None:
    args = ("run", "--keep", "-l", f"unix:{sock}", "--", *PYTHON, FIRST_STDERR)
    with started(*args, command=redirected(how)) as script:
        assert script.end() == (0, f"{why}\n", "")


def test_every_standard_stream_closed_costs_no_heartbeat(sock: Path) -> None:
    args = ("run", "-l", f"unix:{sock}", "--", *PYTHON, BEAT)
    with started(*args, command=redirected("<&- >&- 2>&-")) as script:
        assert script.end() == (0, "", "")
    assert not sock.exists()


DESCRIPTORS = """\
import os, stat
for fd in map(int, os.listdir("/proc/self/fd")):
    try:
        print(fd, stat.S_ISSOCK(os.fstat(fd).st_mode))
    except OSError:
        pass
"""


def test_command_has_no_socket_of_ours(sock: Path, tmp_path: Path) -> None:
    with listening(tmp_path / "ready") as ready, open(os.devnull, "rb") as handed_on:
        fds = (ready.fileno(), handed_on.fileno())
        options = ("--keep", "--quiet", "-l", f"unix:{sock}", "-l", f"fd:{fds[0]}")
        args = ("run", *options, "--", *PYTHON, DESCRIPTORS)
        with started(*args, stdin=subprocess.DEVNULL, pass_fds=fds) as script:
            code, out, err = script.end()
    assert (code, err) == (0, "")
    assert sorted(out.split("\n")[:-1]) == sorted(f"{fd} False" for fd in (0, 1, 2, fds[1]))


# Nothing can be started.


def not_started(sock: Path, *command: str) -> tuple[int, str, str]:
    result = nitrohb("run", "--quiet", "-l", f"unix:{sock}", "--", *command)
    assert not sock.exists()
    return result


@pytest.mark.parametrize("command", ["no-such-command", "/no/such/command"])
def test_command_that_is_not_there(command: str, sock: Path) -> None:
    message = f"nitrohb: cannot start {command}: there is no such command (ENOENT)\n"
    remedy = "Check its name, or write its whole path.\n"
    assert not_started(sock, command) == (127, "", message + remedy)


@pytest.mark.parametrize(("command", "shown"), [("", "''"), ("/no/such dir/x", "'/no/such dir/x'")])
def test_command_that_cannot_be_started_is_quoted(command: str, shown: str, sock: Path) -> None:
    code, _, err = not_started(sock, command)
    assert code in (126, 127)
    assert err.startswith(f"nitrohb: cannot start {shown}: ")


def test_command_that_is_not_executable(sock: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch(mode=0o600)
    message = f"nitrohb: cannot start {file}: this user may not run it (EACCES)\n"
    remedy = "Make it executable (chmod +x), or name another.\n"
    assert not_started(sock, str(file)) == (126, "", message + remedy)
    message = f"nitrohb: cannot start {tmp_path}: it is a directory (EACCES)\n"
    remedy = "Name a program in it.\n"
    assert not_started(sock, str(tmp_path)) == (126, "", message + remedy)


def test_command_that_is_no_program(sock: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch(mode=0o700)
    message = f"nitrohb: cannot start {file}: it is no program that this machine can run (ENOEXEC)"
    remedy = "A script begins with the line that names its interpreter, say #!/bin/sh."
    assert not_started(sock, str(file)) == (126, "", f"{message}\n{remedy}\n")


def test_nothing_is_started_when_nobody_listens(sock: Path) -> None:
    with listening(sock):
        code, out, err = nitrohb("run", "-l", f"unix:{sock}", "--", "echo", "started")
    assert (code, out) == (1, "")
    assert err.startswith(f"nitrohb: cannot listen on unix:{sock}: another process listens there")


def test_command_whose_interpreter_is_missing(sock: Path, tmp_path: Path) -> None:
    """The system's own words would be that the command does not exist, which anybody can see."""
    script = tmp_path / "launch"
    script.write_text("#!/no/such/python\n")
    script.chmod(0o700)
    code, out, err = nitrohb("run", "--quiet", "-l", f"unix:{sock}", "--", str(script))
    assert (code, out) == (127, "")
    reason = "the interpreter that its first line (#!) names does not exist (ENOENT)"
    remedy = "Install that, or correct the line (a carriage return at its end counts, too)."
    assert err == f"nitrohb: cannot start {script}: {reason}\n{remedy}\n"


def test_command_with_a_line_break_in_its_name_stays_on_one_line(sock: Path) -> None:
    args = ("run", "--quiet", "-l", f"unix:{sock}", "--", "no\nsuch")
    code, _, err = nitrohb(*args)
    assert code == 127
    assert err.startswith("nitrohb: cannot start 'no\\u000asuch': there is no such command")
    assert len(err.splitlines()) == 2
