# SPDX-License-Identifier: Apache-2.0
"""``nitrohb run``: the command and its heartbeat, signals, and that nothing is left behind.

The command and all that it starts have nitrohb's stdout and stderr. So a test that has read both
to their end, as ``Script.end()`` does, has proved that none of them still runs. A command that
waits reads stdin, which stays open until then.
"""

import errno
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
    nitrohb_here,
    redirected,
    started,
    wait_for,
)

PYTHON = (sys.executable, "-I", "-S", "-c")

BEAT = """\
import os, socket
sock = socket.socket(socket.AF_UNIX)
sock.connect(os.environ["NITROHB_LISTEN"].partition(":")[2])
sock.send(b"\\xb7")
"""


def running(
    sock: Path, *options: str, shell: str, command: tuple[str, ...] = NITROHB
) -> AbstractContextManager[Script]:
    """Run a piece of shell, whose stdin is a pipe."""
    args = ("run", "-l", f"unix:{sock}", *options, "--", "sh", "-c", shell)
    return started(*args, command=command, stdin=subprocess.PIPE)


def write(script: Script, text: str) -> None:
    assert script.popen.stdin is not None
    script.popen.stdin.write(text.encode())


def end(script: Script) -> tuple[int, str, str]:
    """Wait for its end, while stdin stays open."""
    script.popen.wait(PATIENCE)
    return script.end()


# The heartbeat comes.


def test_heartbeat_and_then_the_end_of_the_command(sock: Path) -> None:
    """The heartbeat is answered from the moment the socket is there, while Python loads trio."""
    with running(sock, "--format", "json", shell="cat; exit 3") as script:
        assert beat(sock) == HEARTBEAT
        for event in ("listening", "connected", "heartbeat", "done"):
            assert script.error_event() == event
        assert not sock.exists()
        assert script.popen.poll() is None
        assert script.end() == (3, "", "")


def test_command_that_boots_its_enclaves_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative paths are made absolute: the command may change its directory."""
    monkeypatch.chdir(tmp_path)
    send = f'"{NITROHB[0]}" -m nitrohb send "$address"'
    shell = f'cd /; echo "$NITROHB_LISTEN" | while read -r address; do {send}; done; exit 4'
    options = ("-l", "hybrid:vm:9000", "--format", "json")
    with running(Path("a space"), *options, shell=shell) as script:
        code, out, err = script.end()
    assert code == 4
    assert re.fullmatch(
        rf"unix:{tmp_path}/a space answered in .* ms\n"
        rf"hybrid:{tmp_path}/vm:9000 answered in .* ms\n",
        out,
    )
    events = [json.loads(line)["event"] for line in err.splitlines()]
    assert events == ["listening"] * 2 + ["connected", "heartbeat", "done"] * 2
    assert os.listdir(tmp_path) == []


def test_keep_answers_until_the_command_ends(sock: Path) -> None:
    with running(sock, "--keep", "--format", "json", shell="cat; exit 3") as script:
        assert [beat(sock) for _ in range(2)] == [HEARTBEAT, HEARTBEAT]
        events = [script.error_event() for _ in range(5)]
        assert script.end() == (3, "", "")
    assert events == ["listening", *["connected", "heartbeat"] * 2]
    assert not sock.exists()


# The command ends first.


def test_command_that_ends_before_its_heartbeat(sock: Path) -> None:
    statuses = {"exit 0": "0", "exit 9": "9", "kill -9 $$": "137 (SIGKILL)", "exit 255": "255"}
    for shell, status in statuses.items():
        code, out, err = nitrohb_here(
            "run", "--quiet", "-l", f"unix:{sock}", "--", "sh", "-c", shell
        )
        assert (code, out) == (125, ""), shell
        first, second = err.splitlines()
        assert f"status {status} before its heartbeat" in first
        assert f"no heartbeat on unix:{sock}" in second
        assert "nobody connected" in second
        assert not sock.exists()


BEAT_AND_BLUNDER = """\
import os, socket, sys
heard, blunder, _ = os.environ["NITROHB_LISTEN"].split()
for address, byte in ((heard, b"\\xb7"), (blunder, b"\\0")):
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(address.partition(":")[2])
    sock.send(byte)
    sock.recv(1)
sys.exit(2)
"""


def test_command_that_ends_is_told_what_came_on_each_address_instead(tmp_path: Path) -> None:
    heard, blunder, silent = (f"unix:{tmp_path}/{number}" for number in range(3))
    listen = ("-l", heard, "-l", blunder, "-l", silent)
    code, _, err = nitrohb_here("run", "--quiet", *listen, "--", *PYTHON, BEAT_AND_BLUNDER)
    assert code == 125
    first, second, third = err.splitlines()
    assert "status 2 before its heartbeat" in first
    assert f"no heartbeat on {blunder} " in second
    assert "1 sent 0x00 instead of 0xB7" in second
    assert f"no heartbeat on {silent} " in third
    assert heard not in err


def test_keep_does_not_mind_a_command_without_a_heartbeat(sock: Path) -> None:
    """Its status is known even if our parent ignored the end of children."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        args = ("run", "--keep", "--quiet", "-l", f"unix:{sock}", "--", "sh", "-c", "exit 9")
        assert nitrohb_here(*args) == (9, "", "")
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert not sock.exists()


def test_timeout_ends_the_command(sock: Path) -> None:
    options = ("--quiet", "--timeout", "0.1", "-l", f"unix:{sock}")
    code, out, err = nitrohb_here("run", *options, "--", "tail", "-f", "/dev/null")
    assert (code, out) == (124, "")
    first, *remedies = err.splitlines()
    assert f"no heartbeat on unix:{sock} within 0.1 s: nobody connected" in first
    assert f"nitrohb send unix:{sock}" in remedies[0]
    assert f"nitrohb doctor -l unix:{sock}" in remedies[1]
    assert not sock.exists()
    with pytest.raises(ChildProcessError):  # there is none left to wait for
        os.waitpid(-1, os.WNOHANG)


# A signal comes.


LEFT_BEHIND = """\
tail -f /dev/null & (setsid tail -f /dev/null &)
sh -c 'sh -c "tail -f /dev/null; true"; true' &
"""

NO_MORE = "ulimit -c 0; echo ready; exec tail -f /dev/null"
LEAVES = f"ulimit -c 0; {LEFT_BEHIND} echo ready; wait"


@pytest.mark.parametrize(
    ("number", "shell", "heartbeat"),
    [
        (signal.SIGHUP, LEAVES, False),
        (signal.SIGINT, LEAVES, True),
        (signal.SIGQUIT, LEAVES, False),
        (signal.SIGUSR1, NO_MORE, True),
        (signal.SIGUSR2, NO_MORE, False),
        (signal.SIGTERM, LEAVES, False),
        (signal.SIGTERM, NO_MORE, True),
    ],
)
def test_signal_that_the_command_dies_of_is_the_status_and_leaves_nobody_behind(
    number: signal.Signals, shell: str, heartbeat: bool, sock: Path
) -> None:
    with running(sock, "--quiet", shell=shell) as script:
        assert script.line() == "ready\n"
        if heartbeat:
            assert beat(sock) == HEARTBEAT
        script.popen.send_signal(number)
        assert end(script) == (128 + number, "", "")
    assert not sock.exists()


RELOADS = """\
for name in HUP INT QUIT USR1 USR2; do trap "echo $name" $name; done
echo ready; until read line; do :; done
"""


def test_each_signal_is_passed_on_and_a_command_that_ends_well_after_it_has_not_booted(
    sock: Path,
) -> None:
    """The signal told it to reload, say. A signal that a process has not taken is only one."""
    with running(sock, "--quiet", shell=RELOADS) as script:
        assert script.line() == "ready\n"
        for name in ("HUP", "INT", "QUIT", "USR1", "USR2", "INT"):
            script.popen.send_signal(signal.Signals[f"SIG{name}"])
            assert script.line() == f"{name}\n"
        write(script, "\n")
        code, out, err = script.end()
    assert (code, out) == (125, "")
    assert err.startswith("nitrohb: the command ended with status 0 before its heartbeat\n")


@pytest.mark.parametrize(("name", "status"), [("INT", 7), ("TERM", 0)])
def test_command_that_ends_itself_after_a_signal_has_its_own_status(
    name: str, status: int, sock: Path
) -> None:
    """If SIGTERM told it to end, status 0 is no early end."""
    shell = f'trap "exit {status}" {name}; echo ready; read never'
    with running(sock, "--quiet", shell=shell) as script:
        assert script.line() == "ready\n"
        script.popen.send_signal(signal.Signals[f"SIG{name}"])
        assert end(script) == (status, "", "")


def test_command_and_what_it_leaves_behind_are_killed_if_they_ignore_sigterm(sock: Path) -> None:
    traps = 'trap "" TERM; trap "echo reloaded" HUP'
    shell = f"{traps}; {LEFT_BEHIND} echo ready; while :; do wait; done"
    with running(sock, "--quiet", "--kill-after", "0.1", shell=shell) as script:
        assert script.line() == "ready\n"
        script.popen.send_signal(signal.SIGHUP)  # which does not end it
        assert script.line() == "reloaded\n"
        script.popen.terminate()
        assert end(script) == (143, "", "")
    assert not sock.exists()


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
def test_signal_while_python_still_loads_trio(number: signal.Signals, sock: Path) -> None:
    with running(sock, "--quiet", shell="exec tail -f /dev/null") as script, connected(sock):
        script.popen.send_signal(number)
        assert end(script) == (128 + number, "", "")
    assert not sock.exists()


def test_kill_of_nitrohb_itself_leaves_the_command_alone(sock: Path) -> None:
    """As documented: any way to tell the command would endanger it otherwise."""
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


KEYS = {"INT": b"\x03", "QUIT": b"\x1c"}

SAYS_WHAT_COMES = """\
trap "echo HUP" HUP; trap "echo INT" INT; trap "echo QUIT" QUIT; trap "echo bye; exit 5" TERM
tail -f /dev/null & echo ready; while kill -0 $!; do wait; done
"""


def test_command_reads_from_the_terminal_and_a_key_sends_it_one_signal(sock: Path) -> None:
    """A second one from us would interrupt what the command does about the first."""
    shell = f'read line; echo "got $line"; {SAYS_WHAT_COMES}'
    args = ("run", "--quiet", "-l", f"unix:{sock}", "--", "sh", "-c", shell)
    with on_terminal(*args) as (script, terminal):
        os.write(terminal, b"it\n")
        assert script.line() == "got it\n"
        assert script.line() == "ready\n"
        for name, key in KEYS.items():
            script.popen.send_signal(signal.SIGHUP)
            assert script.line() == "HUP\n"  # nitrohb has taken all that came before
            script.popen.send_signal(signal.SIGSTOP)  # so that two cannot arrive as one
            os.write(terminal, key)
            assert script.line() == f"{name}\n"
            script.popen.send_signal(signal.SIGCONT)
        script.popen.terminate()
        assert end(script) == (5, "bye\n", "")
    assert not sock.exists()


def test_key_ends_a_command_in_a_process_group_of_its_own(sock: Path) -> None:
    """The terminal does not send it a signal: we do. timeout(1) makes itself such a group."""
    args = ("run", "--quiet", "-l", f"unix:{sock}", "--", "timeout", "1000", "sh", "-c", NO_MORE)
    with on_terminal(*args) as (script, terminal):
        assert script.line() == "ready\n"
        os.write(terminal, KEYS["QUIT"])
        assert end(script) == (131, "", "")


def test_signals_that_no_key_can_have_sent_are_passed_on(sock: Path) -> None:
    """It has a terminal, but is in the background."""
    job = ("sh", "-m", "-c", '"$@" & echo $!; wait $!', "sh", *NITROHB)
    args = ("run", "--quiet", "-l", f"unix:{sock}", "--", "sh", "-c", SAYS_WHAT_COMES)
    with on_terminal(*args, command=job) as (script, _):
        pid = int(script.line())
        assert script.line() == "ready\n"
        for name in KEYS:
            os.kill(pid, signal.Signals[f"SIG{name}"])
            assert script.line() == f"{name}\n"
        os.kill(pid, signal.SIGTERM)
        assert end(script) == (5, "bye\n", "")


# What the command leaves behind.


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
    with running(sock, "--timeout", "0.1", "--quiet", shell=shell, command=before) as script:
        assert script.popen.wait(PATIENCE) == 124
        write(script, "still here\n")
        assert script.line() == "still here\n"


def test_orphans_that_end_do_not_stay_as_zombies_nor_hide_the_end_of_the_command(
    sock: Path,
) -> None:
    first = '(sh -c "echo \\$\\$; read line <&3" &)'
    many = "trap 'for i in $(seq 100); do (true &); done; exit 3' HUP"
    shell = f"exec 3<&0 <&-; {many}; {first}; tail -f /dev/null & wait"
    with running(sock, "--keep", "--quiet", shell=shell) as script:
        pid = int(script.line())
        write(script, "\n")
        wait_for(lambda: not os.path.exists(f"/proc/{pid}"))
        script.popen.send_signal(signal.SIGHUP)
        assert end(script) == (3, "", "")


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
    with running(sock, shell="echo first >&2; cat; exit 0") as script:
        assert f" nitro_listening address=unix:{sock} " in script.error_line()
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
    print(error.errno)
"""


@pytest.mark.parametrize(("how", "why"), [("2>&-", errno.EBADF), ("2>/dev/full", errno.ENOSPC)])
def test_stderr_that_takes_nothing_is_the_command_s_all_the_same(
    how: str, why: int, sock: Path
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


def test_commands_that_cannot_be_started(sock: Path, tmp_path: Path) -> None:
    """tests/test_remedies.py has the words for each."""
    file, nothing, script = (tmp_path / name for name in ("file", "nothing", "script"))
    file.touch(mode=0o600)
    nothing.touch(mode=0o700)
    script.write_text("#!/no/such/python\n")
    script.chmod(0o700)
    for command, shown, code, why in [
        ("no-such-command", "no-such-command", 127, "ENOENT"),
        ("/no/such dir/x", "'/no/such dir/x'", 127, "ENOENT"),
        ("no\nsuch", "'no\\u000asuch'", 127, "ENOENT"),
        (str(script), str(script), 127, "the interpreter that its first line (#!) names"),
        ("", "''", 126, "EACCES"),
        (str(file), str(file), 126, "EACCES"),
        (str(tmp_path), str(tmp_path), 126, "directory (EACCES)"),
        (str(nothing), str(nothing), 126, "ENOEXEC"),
    ]:
        status, out, err = nitrohb_here("run", "--quiet", "-l", f"unix:{sock}", "--", command)
        assert (status, out) == (code, ""), command
        message, remedy = err.splitlines()
        assert message.startswith(f"nitrohb: cannot start {shown}: ")
        assert why in message
        assert remedy
        assert not sock.exists()


def test_nothing_is_started_when_nobody_listens(sock: Path, tmp_path: Path) -> None:
    with listening(sock):
        args = ("run", "-l", f"unix:{sock}", "--", "touch", f"{tmp_path}/started")
        code, out, err = nitrohb_here(*args)
    assert (code, out) == (1, "")
    assert err.startswith(f"nitrohb: cannot listen on unix:{sock}: ")
    assert os.listdir(tmp_path) == [sock.name]
