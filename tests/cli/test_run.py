# SPDX-License-Identifier: Apache-2.0
"""``nitrohb run``: the command and its heartbeat, signals, and that no process is left.

The command and its descendants inherit stdout and stderr from nitrohb. So a test that reads both to
the end, as ``Script.end()`` does, proves that none of them still runs. A command that waits reads
stdin, which stays open until then.
"""

import errno
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

from .conftest import SIGNALS
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
FOREVER = ("tail", "-f", "/dev/null")

BEAT = """\
import os, socket
sock = socket.socket(socket.AF_UNIX)
sock.connect(os.environ["NITROHB_LISTEN"].partition(":")[2])
sock.send(b"\\xb7")
"""


def running(
    sock: Path, *options: str, shell: str, command: tuple[str, ...] = NITROHB
) -> AbstractContextManager[Script]:
    """Run shell code with a pipe as stdin."""
    args = ("run", "-l", f"unix:{sock}", *options, "--", "sh", "-c", shell)
    return started(*args, command=command, stdin=subprocess.PIPE)


def run_here(sock: Path, *command: str, options: tuple[str, ...] = ()) -> tuple[int, str, str]:
    """Run a command in this process, and check that nothing is left."""
    result = nitrohb_here("run", "--quiet", "-l", f"unix:{sock}", *options, "--", *command)
    assert not sock.exists()
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    return result


def write(script: Script, text: str) -> None:
    assert script.popen.stdin is not None
    script.popen.stdin.write(text.encode())


def send(script: Script, name: str) -> None:
    script.popen.send_signal(signal.Signals[f"SIG{name}"])


def end(script: Script) -> tuple[int, str, str]:
    """Wait for its end, while stdin stays open."""
    script.popen.wait(PATIENCE)
    return script.end()


# The heartbeat, and the end of the command.


@pytest.mark.parametrize("options", [(), ("--keep",)])
def test_heartbeat_and_then_the_end_of_the_command(options: tuple[str, ...], sock: Path) -> None:
    """The first client connects while Python still loads trio."""
    with running(sock, "--format", "json", *options, shell="cat; exit 3") as script:
        events = ["listening", "connected", "heartbeat", "done"]
        assert beat(sock) == HEARTBEAT
        if options:
            events[-1:] = ["connected", "heartbeat"]
            assert beat(sock) == HEARTBEAT
        assert [script.error_event() for _ in events] == events
        assert sock.exists() == bool(options)
        assert script.popen.poll() is None
        assert script.end() == (3, "", "")
    assert not sock.exists()


@pytest.mark.parametrize(("shell", "status"), [("exit 3", "3"), ("kill -9 $$", "137 (SIGKILL)")])
def test_command_that_fails_before_its_heartbeat(shell: str, status: str, sock: Path) -> None:
    code, out, err = run_here(sock, "sh", "-c", shell)
    assert (code, out) == (125, "")
    why, remedy = err.splitlines()
    assert all(fact in why for fact in (f"unix:{sock}", f"status {status}", "nobody connected"))
    assert "--console" in remedy


def test_with_keep_a_command_needs_no_heartbeat(sock: Path) -> None:
    """nitrohb knows the status even if its parent ignored SIGCHLD."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    assert run_here(sock, "sh", "-c", "exit 9", options=("--keep",)) == (9, "", "")


def test_nitro_cli_needs_no_nitrohb(sock: Path, tmp_path: Path) -> None:
    """nitro-cli finds its port taken. This fake one only fails in the same way."""
    script = tmp_path / "nitro-cli"
    script.write_text("#!/bin/sh\nexit 36\n")
    script.chmod(0o755)
    for command in ([str(script), "run-enclave"], ["sh", "-c", f"{script} run-enclave; exit 36"]):
        code, _, err = run_here(sock, *command)
        assert code == 125
        assert "Run nitro-cli without nitrohb" in err


@pytest.mark.parametrize("options", [(), ("--keep",)])
def test_launcher_that_exits_with_0_before_its_enclave_boots(
    options: tuple[str, ...], sock: Path
) -> None:
    """``qemu -daemonize`` does so. Its VMM keeps running."""
    with running(sock, *options, shell=f"exec 3<&0; {GOES_ON} exit 0") as script:
        assert " nitro_listening " in script.error_line()
        assert f"status 0; waiting for a heartbeat on unix:{sock}, without" in script.error_line()
        assert script.popen.poll() is None
        assert beat(sock) == HEARTBEAT
        assert script.popen.wait(PATIENCE) == 0
        write(script, "still here\n")
        assert script.line() == "still here\n"


@pytest.mark.parametrize("name", ["HUP", "INT", "QUIT", "TERM"])
def test_signal_after_the_end_of_the_launcher_ends_what_it_has_started(
    name: str, sock: Path
) -> None:
    with running(sock, shell=f"exec 3<&0; {GOES_ON} exit 0") as script:
        assert " nitro_listening " in script.error_line()
        assert "status 0; waiting" in script.error_line()
        send(script, "USR1")  # for a command that has ended
        assert beat(sock, b"x") == b""
        send(script, name)
        assert script.popen.wait(PATIENCE) == 128 + signal.Signals[f"SIG{name}"]
        assert script.end()[1] == ""


def test_timeout_after_the_end_of_the_launcher(sock: Path) -> None:
    shell = "tail -f /dev/null & exit 0"
    code, out, err = run_here(sock, "sh", "-c", shell, options=("--timeout", "0.2"))
    assert (code, out) == (124, "")
    assert f"no heartbeat on unix:{sock} within 0.2 s" in err


def test_timeout_ends_the_command(sock: Path) -> None:
    code, out, err = run_here(sock, *FOREVER, options=("--timeout", "0.1"))
    assert (code, out) == (124, "")
    assert f"no heartbeat on unix:{sock} within 0.1 s: nobody connected" in err


@pytest.mark.usefixtures("_broken_accept")
def test_listening_socket_that_breaks_ends_the_command(sock: Path) -> None:
    with_child = f"import os, signal\nos.fork() or signal.pause()\n{BEAT}signal.pause()"
    code, out, err = run_here(sock, *PYTHON, with_child)
    assert (code, out) == (1, "")
    assert err.startswith(f"nitrohb: cannot listen on unix:{sock}: ")


@pytest.mark.parametrize(
    ("command", "shown", "status"),
    [
        ("/no/such dir/x", "'/no/such dir/x'", 127),
        ("no\nsuch", "'no\\u000asuch'", 127),
        ("", "''", 126),
        ("/dev/null", "/dev/null", 126),
    ],
)
def test_command_that_cannot_be_started(command: str, shown: str, status: int, sock: Path) -> None:
    """test_process.py has the reasons."""
    code, out, err = run_here(sock, command)
    assert (code, out) == (status, "")
    message, _remedy = err.splitlines()
    assert message.startswith(f"nitrohb: cannot start {shown}: ")


def test_command_is_not_started_if_nitrohb_cannot_listen(sock: Path, tmp_path: Path) -> None:
    with listening(sock):
        args = ("run", "-l", f"unix:{sock}", "--", "touch", f"{tmp_path}/started")
        code, out, err = nitrohb_here(*args)
    assert (code, out) == (1, "")
    assert err.startswith(f"nitrohb: cannot listen on unix:{sock}: ")
    assert os.listdir(tmp_path) == [sock.name]


# Signals.


DAEMONS = """\
tail -f /dev/null & (setsid tail -f /dev/null &)
sh -c 'sh -c "tail -f /dev/null; true"; true' &
"""
ALONE = "ulimit -c 0; echo ready; exec tail -f /dev/null"
WITH_DAEMONS = f"ulimit -c 0; {DAEMONS} echo ready; wait"


@pytest.mark.parametrize(
    ("number", "shell", "heartbeat"),
    [
        (signal.SIGHUP, WITH_DAEMONS, False),
        (signal.SIGINT, WITH_DAEMONS, True),
        (signal.SIGQUIT, WITH_DAEMONS, False),
        (signal.SIGUSR1, ALONE, True),
        (signal.SIGUSR2, ALONE, False),
        (signal.SIGTERM, WITH_DAEMONS, False),
        (signal.SIGTERM, ALONE, True),
    ],
)
def test_command_that_a_signal_ends_leaves_no_process(
    number: signal.Signals, shell: str, heartbeat: bool, sock: Path
) -> None:
    with running(sock, "--quiet", shell=shell) as script:
        assert script.line() == "ready\n"
        if heartbeat:
            assert beat(sock) == HEARTBEAT
        script.popen.send_signal(number)
        assert end(script) == (128 + number, "", "")
    assert not sock.exists()


def test_only_the_main_thread_and_the_command_get_signals(sock: Path) -> None:
    """Another thread could run a handler after Python has removed all handlers."""
    all_of_them = sum(1 << number - 1 for number in (*SIGNALS, signal.SIGCHLD))

    def blocked(status: str) -> int:
        (mask,) = re.findall(r"^SigBlk:\t(\w+)$", status, re.MULTILINE)
        return int(mask, 16) & all_of_them

    shell = "grep ^SigBlk: /proc/self/status; exec tail -f /dev/null"
    with running(sock, "--quiet", shell=shell) as script:
        assert not blocked(script.line())
        main = script.popen.pid
        tasks = Path(f"/proc/{main}/task")
        assert not blocked((tasks / str(main) / "status").read_text())
        # trio keeps the thread that forked for some seconds.
        wait_for(lambda: all_of_them in [blocked(it.read_text()) for it in tasks.glob("*/status")])
        send(script, "TERM")
        assert end(script) == (143, "", "")


RELOADS = """\
for name in HUP INT QUIT USR1 USR2; do trap "echo $name" $name; done
echo ready; until read line; do kill -0 $PPID || exit; done
"""


def test_each_signal_is_passed_on_and_status_0_after_it_does_not_end_the_wait(sock: Path) -> None:
    """The signal can mean reload. Two pending signals of one kind arrive as one."""
    with running(sock, "--quiet", shell=RELOADS) as script:
        assert script.line() == "ready\n"
        for name in ("HUP", "INT", "QUIT", "USR1", "USR2", "INT"):
            send(script, name)
            assert script.line() == f"{name}\n"
        write(script, "\n")
        assert "status 0; waiting for a heartbeat" in script.error_line()
        send(script, "TERM")
        assert script.end() == (143, "", "")


@pytest.mark.parametrize(("name", "status"), [("INT", 7), ("TERM", 0)])
def test_command_that_exits_after_a_signal_has_its_own_status(
    name: str, status: int, sock: Path
) -> None:
    """After SIGTERM status 0 needs no heartbeat."""
    with running(sock, "--quiet", shell=f'trap "exit {status}" {name}; echo ready; read x') as it:
        assert it.line() == "ready\n"
        send(it, name)
        assert end(it) == (status, "", "")


def test_processes_that_ignore_sigterm_are_killed(sock: Path) -> None:
    traps = 'trap "" TERM; trap "echo reloaded" HUP'
    shell = f"{traps}; {DAEMONS} echo ready; while kill -0 $PPID; do wait; done"
    with running(sock, "--quiet", "--kill-after", "0.1", shell=shell) as script:
        assert script.line() == "ready\n"
        send(script, "HUP")  # which does not end it
        assert script.line() == "reloaded\n"
        send(script, "TERM")
        assert end(script) == (143, "", "")
    assert not sock.exists()


def test_many_signals_act_like_one(sock: Path) -> None:
    with running(sock, "--quiet", shell='trap "exit 7" TERM; echo ready; read x') as script:
        assert script.line() == "ready\n"
        with open(os.pidfd_open(script.popen.pid), "rb", buffering=0) as until_end:
            while not select.select([until_end], [], [], 0.0005)[0]:
                send(script, "TERM")
        assert end(script) == (7, "", "")
    assert not sock.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
def test_signal_while_python_loads_trio(number: signal.Signals, sock: Path) -> None:
    with running(sock, "--quiet", shell="exec tail -f /dev/null") as script, connected(sock):
        script.popen.send_signal(number)
        assert end(script) == (128 + number, "", "")
    assert not sock.exists()


def test_sigkill_of_nitrohb_leaves_the_command_alone(sock: Path) -> None:
    """As documented: a way to end the command then would endanger it at other times."""
    with running(sock, shell='echo ready; read line; echo "$line"') as script:
        assert script.line() == "ready\n"
        script.popen.kill()
        script.popen.wait(PATIENCE)
        write(script, "still here\n")
        assert script.line() == "still here\n"


# Terminals.


@contextmanager
def on_terminal(
    sock: Path, *command: str, nitrohb: tuple[str, ...] = NITROHB
) -> Generator[tuple[Script, int]]:
    """Start nitrohb as a shell would, on a terminal. Yields the other end of the terminal, too."""
    ours, theirs = os.openpty()
    setsid = ("setsid", "--ctty", *nitrohb)
    args = ("run", "--quiet", "-l", f"unix:{sock}", "--", *command)
    try:
        with started(*args, command=setsid, stdin=theirs, new_session=False) as script:
            os.close(theirs)
            yield script, ours
    finally:
        os.close(ours)


KEYS = {"INT": b"\x03", "QUIT": b"\x1c"}

PRINTS_SIGNALS = """\
trap "echo HUP" HUP; trap "echo INT" INT; trap "echo QUIT" QUIT; trap "echo bye; exit 5" TERM
tail -f /dev/null & echo ready; while kill -0 $!; do wait; done
"""


def test_key_sends_one_signal_to_a_command_that_reads_from_the_terminal(sock: Path) -> None:
    """A second one from nitrohb would interrupt the reaction of the command to the first."""
    shell = f'read line; echo "got $line"; {PRINTS_SIGNALS}'
    with on_terminal(sock, "sh", "-c", shell) as (script, terminal):
        os.write(terminal, b"it\n")
        assert [script.line(), script.line()] == ["got it\n", "ready\n"]
        for name, key in KEYS.items():
            send(script, "HUP")
            assert script.line() == "HUP\n"  # nitrohb has taken all earlier signals
            send(script, "STOP")  # so that two cannot arrive as one
            os.write(terminal, key)
            assert script.line() == f"{name}\n"
            send(script, "CONT")
        send(script, "TERM")
        assert end(script) == (5, "bye\n", "")
    assert not sock.exists()


def test_key_ends_a_command_in_another_process_group(sock: Path) -> None:
    """The terminal does not send it the signal, so nitrohb does. timeout(1) makes such a group."""
    with on_terminal(sock, "timeout", "1000", "sh", "-c", ALONE) as (script, terminal):
        assert script.line() == "ready\n"
        os.write(terminal, KEYS["QUIT"])
        assert end(script) == (131, "", "")


def test_signals_in_the_background_of_a_terminal_are_passed_on(sock: Path) -> None:
    """No key can send them."""
    job = ("sh", "-m", "-c", '"$@" & echo $!; wait $!', "sh", *NITROHB)
    with on_terminal(sock, "sh", "-c", PRINTS_SIGNALS, nitrohb=job) as (script, _):
        pid = int(script.line())
        assert script.line() == "ready\n"
        for name in KEYS:
            os.kill(pid, signal.Signals[f"SIG{name}"])
            assert script.line() == f"{name}\n"
        os.kill(pid, signal.SIGTERM)
        assert end(script) == (5, "bye\n", "")


# Descendants, and other children.


GOES_ON = '(read line <&3; echo "$line") &'


def test_descendant_goes_on_if_the_command_ends_by_itself(sock: Path) -> None:
    """A launcher can start a VMM and exit."""
    with running(sock, "--keep", "--quiet", shell=f"exec 3<&0; {GOES_ON} exit 3") as script:
        assert script.popen.wait(PATIENCE) == 3
        write(script, "still here\n")
        assert script.line() == "still here\n"


def test_child_from_before_nitrohb_goes_on(sock: Path) -> None:
    """A script can start a process, and then become nitrohb by exec."""
    before = ("sh", "-c", f'exec 3<&0; {GOES_ON} exec "$@" </dev/null', "sh", *NITROHB)
    shell = "tail -f /dev/null; true"
    with running(sock, "--timeout", "0.1", "--quiet", shell=shell, command=before) as script:
        assert script.popen.wait(PATIENCE) == 124
        write(script, "still here\n")
        assert script.line() == "still here\n"


def test_orphans_are_reaped_and_do_not_hide_the_end_of_the_command(sock: Path) -> None:
    first = '(sh -c "echo \\$\\$; read line <&3" &)'
    many = "trap 'for i in $(seq 100); do (true &); done; exit 3' HUP"
    shell = f"exec 3<&0 <&-; {many}; {first}; tail -f /dev/null & wait"
    with running(sock, "--keep", "--quiet", shell=shell) as script:
        pid = int(script.line())
        write(script, "\n")
        wait_for(lambda: not os.path.exists(f"/proc/{pid}"))
        send(script, "HUP")
        assert end(script) == (3, "", "")


UNSHARE = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc")


@pytest.mark.skipif(
    shutil.which("unshare") is None or subprocess.run([*UNSHARE, "true"]).returncode != 0,
    reason="needs unshare(1), and a system that lets everybody make namespaces",
)
def test_first_process_of_a_container(sock: Path) -> None:
    shell = 'trap "echo bye; exit 7" TERM; (setsid sleep 1000 &); kill -TERM $PPID; read x'
    with running(sock, "--quiet", shell=f"echo $PPID; {shell}", command=(*UNSHARE, *NITROHB)) as it:
        assert end(it) == (7, "1\nbye\n", "")


# What the command inherits.


def test_command_has_the_streams_and_events_go_to_stderr(sock: Path) -> None:
    with running(sock, shell="echo first >&2; cat; exit 0") as script:
        assert f" nitro_listening address=unix:{sock} " in script.error_line()
        assert script.error_line() == "first\n"
        write(script, "through\n")
        assert script.line() == "through\n"
        assert beat(sock) == HEARTBEAT
        code, out, err = script.end()
    assert (code, out, len(err.splitlines())) == (0, "", 3)


PRINT_ERRNO_OF_STDERR = """\
import os
try:
    os.write(2, b"x")
except OSError as error:
    print(error.errno)
"""


@pytest.mark.parametrize(
    ("how", "out"),
    [
        ("2>&-", f"{errno.EBADF}\n"),
        ("2>/dev/full", f"{errno.ENOSPC}\n"),
        ("<&- >&- 2>&-", ""),
    ],
)
def test_a_full_stream_is_inherited_and_delays_no_heartbeat(how: str, out: str, sock: Path) -> None:
    args = ("run", "-l", f"unix:{sock}", "--", *PYTHON, PRINT_ERRNO_OF_STDERR + BEAT)
    with started(*args, command=redirected(how)) as script:
        assert script.end() == (0, out, "")
    assert not sock.exists()


DESCRIPTORS = """\
import os, stat
for fd in map(int, os.listdir("/proc/self/fd")):
    try:
        print(fd, stat.S_ISSOCK(os.fstat(fd).st_mode))
    except OSError:
        pass
raise SystemExit(3)
"""


def test_command_has_the_inherited_descriptors_and_no_socket(sock: Path, tmp_path: Path) -> None:
    with listening(tmp_path / "ready") as ready, open(os.devnull, "rb") as inherited:
        fds = (ready.fileno(), inherited.fileno())
        options = ("--keep", "--quiet", "-l", f"unix:{sock}", "-l", f"fd:{fds[0]}")
        args = ("run", *options, "--", *PYTHON, DESCRIPTORS)
        with started(*args, stdin=subprocess.DEVNULL, pass_fds=fds) as script:
            code, out, err = script.end()
    assert (code, err) == (3, "")
    assert sorted(out.splitlines()) == sorted(f"{fd} False" for fd in (0, 1, 2, fds[1]))
