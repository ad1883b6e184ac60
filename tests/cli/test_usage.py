# SPDX-License-Identifier: Apache-2.0
"""What the command line accepts, and the messages for what it rejects."""

import errno
import grp
import os
import pwd
import re
import shlex
from pathlib import Path

import pytest

import nitrohb as library
from nitrohb.cli.parser import parse
from nitrohb.cli.settings import RunSettings, ServeSettings

from .process import nitrohb_here, redirected, started

COMMANDS = ["", "serve", "run", "send", "wait", "demo", "doctor", "completion"]


@pytest.fixture
def _nothing_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail at once, instead of waiting for an enclave, if a wrong command line is accepted."""
    monkeypatch.setattr("nitrohb.cli.answer.serve_heartbeat", None)


def test_version() -> None:
    assert nitrohb_here("--version") == (0, f"nitrohb {library.__version__}\n", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_and_fits_a_screen_with_the_prompt_below(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = nitrohb_here(*command.split(), "--help")
    assert (code, err) == (0, "")
    assert f"  nitrohb {command}" in out.partition("example")[2]
    high = {"serve": 54, "run": 60, "doctor": 37}  # an old terminal, except for the most options
    assert len(out.splitlines()) < high.get(command, 24)
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("columns", "terminal", "width"),
    [("60", 50, 60), ("0", 50, 80), ("x", 50, 50), ("", None, 80)],
)
def test_help_is_as_wide_as_the_terminal(
    columns: str, terminal: int | None, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def size(_: int) -> os.terminal_size:
        if terminal is None:
            raise OSError(errno.ENOTTY, "not a terminal")
        return os.terminal_size((terminal, 24))

    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(os, "get_terminal_size", size)
    _, out, _ = nitrohb_here("wait", "--help")
    options = out.partition("options:")[2].partition("examples:")[0]
    assert width - 15 < max(map(len, options.splitlines())) <= width


def test_help_of_send_names_only_addresses_that_can_be_connected_to() -> None:
    _, out, _ = nitrohb_here("send", "--help")
    assert "vsock:3:9000 " in out
    assert "vsock::9000" not in out
    assert "fd:" not in out


FULL = os.strerror(errno.ENOSPC)


@pytest.mark.parametrize(
    ("args", "how", "why"),
    [
        ("--help", ">&-", "closed"),
        ("--version", ">/dev/full", FULL),
        ("completion zsh", ">&-", "closed"),
        ("doctor -l", ">/dev/full", FULL),
        ("demo", ">/dev/full", FULL),
    ],
)
def test_a_command_that_only_prints_fails_without_stdout(
    args: str, how: str, why: str, sock: Path
) -> None:
    listen = [f"unix:{sock}"] if args.endswith("-l") else []
    with started(*args.split(), *listen, command=redirected(how)) as script:
        code, out, err = script.end()
    assert (code, out, len(err.splitlines())) == (1, "", 2)
    assert "stdout: " in err
    assert why in err


def test_a_reader_that_closes_early_is_not_a_failure() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with started("completion", "bash", stdout=writer) as script:
        os.close(writer)
        assert script.end()[0] == 0


def test_a_mistake_without_stderr() -> None:
    with started("--hel", command=redirected(">&- 2>&-")) as script:
        assert script.end() == (2, "", "")


# Rejected because of the last value, which the message quotes.
WRONG_VALUES = """
-l tcp:1:2  -l ''  -l vsock:9000  -l vsock:x:9000  -l unix:  -l unix:@x  -l hybrid:/vm4  -l fd:-1
--allow-cid 4x  --allow-cid -1  --max-pending 0  --max-pending many  --memory 4G  --memory 0
--timeout 1_0  --timeout ٣  --timeout ' 5'  --timeout +5  --max-pending 1_0  --handshake-timeout ٣
--timeout soon  --timeout 0  --timeout nan  --timeout automatic  --handshake-timeout inf
--timeout 1.2.3  --socket-mode 0o600  --socket-mode 1777  --socket-group 'no such group'
--socket-group 00000000000123  --allow-uid 'no such user'  --allow-uid -1
--format xml  --log-level loud
--api example.com:9180  --api 127.0.0.1  --api ::1:9180  --api [127.0.0.1]:9180
--api [fe80::1%1]:9180  --api localhost:0
run --kill-after 0  send nowhere  send --timeout -1  wait --timeout auto
wait --max-age -1  wait --max-age 1_0  wait --max-age soon
doctor -l vsock:9000  doctor --max-pending 0  doctor --format xml  completion tcsh  attend
"""
# Rejected with these words in the message.
OTHERS = {
    "-l 'unix:a\nb'": [r"'unix:a\nb'"],
    "--quiet=1": ["--quiet", "'1'"],
    "-l vsock::4294967296": ["'4294967296'"],
    f"-l unix:/tmp/{103 * 'x'}": ["107 bytes", "108", 103 * "x"],
    "-l 9000": ["vsock::9000"],
    "-l /tmp/x": ["unix:/tmp/x"],
    "-l './a\nb'": ["control characters"],
    "--timeout soon": ["seconds", "auto"],
    "--api localhost:65536": ["'65536'"],
    "--lis vsock::9000": ["unknown", "--lis vsock::9000"],
    "run --time-out 60 -- true": ["unknown", "--time-out"],
    "serve vsock::9000": ["unknown", "vsock::9000"],
    "send unix:x unix:y": ["unknown", "unix:y"],
    "demo --quiet": ["unknown", "--quiet"],
    "help": ["serve, run, send, wait, listen, unlisten, demo"],
    "wait": ["--cid", "--address", "required"],
    "wait --cid 1 --address vsock::9000": ["--cid", "--address", "not allowed"],
}


def wrong_values() -> list[tuple[str, list[str]]]:
    lines = re.split(r"  |\n", WRONG_VALUES.strip())
    return [(line, [repr(shlex.split(line)[-1])]) for line in lines]


@pytest.mark.usefixtures("_nothing_is_served")
@pytest.mark.parametrize(("line", "named"), [*wrong_values(), *OTHERS.items()])
def test_malformed_argument_is_named(line: str, named: list[str]) -> None:
    args = shlex.split(line)
    code, out, err = nitrohb_here(*args)
    assert (code, out) == (2, "")
    said, _, remedy = err.removesuffix("\n").rpartition("\n")
    command = f"nitrohb {args[0] if args[0][0] != '-' else 'serve'}"
    program = command if args[0] not in ("attend", "help") else "nitrohb"
    assert err.startswith("nitrohb: ")
    assert not [name for name in named if name not in said]
    assert remedy == f"Try: {program} --help"


COMMAND = ["nitrohb run [options] -- CMD"]
AUTO = ["--timeout auto", "--eif", "--memory"]
NOT_AUTO = ["--eif", "--memory", "--timeout auto"]
NO_API = ["--api-", "without --api"]
SAME_PLACE = ["hybrid:{sock}:9000", "unix:{sock}_9000", "both are {sock}_9000"]


@pytest.mark.usefixtures("_nothing_is_served")
@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("--allow-cid 4 -l unix:{sock}", ["unix:{sock}", "no CID"]),
        ("--allow-uid 4", ["vsock::9000", "no uid"]),
        ("run --allow-uid 4 -l unix:{sock} -l vsock::9001 -- true", ["vsock::9001", "no uid"]),
        ("-l unix:{sock} -l unix:{sock}", ["unix:{sock}", "twice"]),
        ("--timeout auto -l unix:{sock}", AUTO),
        ("--timeout auto --eif x.eif -l unix:{sock}", AUTO),
        ("run --timeout auto --memory 64 -l unix:{sock} -- true", AUTO),
        ("--eif x.eif --timeout 60 -l unix:{sock}", NOT_AUTO),
        ("run --memory 64 -l unix:{sock} -- true", NOT_AUTO),
        ("-l unix:{sock} --api unix:{sock}2", ["--api without --keep"]),
        ("-l hybrid:{sock}:9000 --keep --api unix:{sock}_9000", ["--api", "unix:{sock}_9000"]),
        ("-l unix:{sock} --keep --api-mode 600", NO_API),
        ("-l unix:{sock} --keep --api-group 0", NO_API),
        ("-l unix:{sock} --keep --api-allow-remote", NO_API),
        ("-l unix:{sock} --keep --api-host example.com", NO_API),
        ("--events fd:999", ["--events: descriptor 999 ", "3>FILE"]),
        ("--events fd:x", ["--events", "'x'"]),
        ("run --ready-fd 2 -- true", ["--ready-fd: ", "from 3 ", "got '2'"]),
        ("run --ready-fd 999 -- true", ["--ready-fd: descriptor 999 ", "3>FILE"]),
        ("--ready-fd -1", ["--ready-fd", "'-1'"]),
        ("run -l unix:{sock}", COMMAND),
        ("run -l unix:{sock} --", COMMAND),
        ("run -l unix:{sock} true", COMMAND),
        ("run -l unix:{sock} ls --sort time", COMMAND),
        ("run -l unix:{sock} true -- true", COMMAND),
        ("run -l unix:{sock} --console-log x -- true", ["--console-log", "without --console"]),
        ("run -l unix:{sock} --console fd:3 -- true", ["fd:3", "listening socket"]),
        ("run -l unix:{sock} -l hybrid:vm:1 --console auto -- true", ["auto", "vsock address"]),
        ("send fd:3", ["fd:3", "listening socket"]),
        ("send vsock::9000", ["vsock::9000", "vsock:3:9000"]),
        ("doctor -l unix:{sock} -l hybrid:{sock}:9000 -l unix:{sock}_9000", SAME_PLACE),
        ("doctor -l unix:{sock} -l unix:{sock}", ["unix:{sock}", "twice"]),
        ("doctor -l vsock::4294967295", ["vsock::4294967295", "port", "9000"]),
    ],
)
def test_arguments_that_contradict_each_other(line: str, named: list[str], sock: Path) -> None:
    code, out, err = nitrohb_here(*line.format(sock=sock).split())
    assert (code, out) == (2, "")
    assert len(err.splitlines()) <= 2, "the reason, and the remedy"
    assert err.startswith("nitrohb: ")
    assert not [name for name in named if name.format(sock=sock) not in err]
    assert not os.listdir(sock.parent)


def test_without_the_extra_it_says_how_to_get_it(
    sock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_nothing(_: str) -> None: ...

    with monkeypatch.context() as missing:
        missing.setattr("importlib.util.find_spec", find_nothing)
        code, out, err = nitrohb_here("--keep", "-l", f"unix:{sock}", "--api", "127.0.0.1:9180")
    assert (code, out) == (2, "")
    assert "pip install '.[api]'" in err
    assert not sock.exists()


@pytest.mark.usefixtures("_nothing_is_served")
@pytest.mark.parametrize("command", ["serve", "run"])
def test_an_image_that_cannot_be_read(command: str, sock: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("not an image")
    problems = {"missing": os.strerror(errno.ENOENT), ".": os.strerror(errno.EISDIR)}
    problems |= dict.fromkeys(("empty", "text"), "EIF")
    for name, problem in problems.items():
        eif = str(tmp_path / name)
        options = ("--timeout", "auto", "--eif", eif, "--memory", "64", "-l", f"unix:{sock}")
        code, out, err = nitrohb_here(command, *options, *(["--", "true"] * (command == "run")))
        assert (code, out) == (2, ""), name
        assert f"--eif {eif}" in err
        assert problem in err
        assert not sock.exists()


def test_timeout_that_nitro_cli_would_take(tmp_path: Path) -> None:
    eif = tmp_path / "x.eif"
    with eif.open("wb") as image:
        image.write(b".eif")
        image.truncate(6 * 1024**3 + 1)  # a hole: it needs no space
    settings = parse(["--timeout", "auto", "--eif", str(eif), "--memory", str(100 * 1024)])
    assert isinstance(settings, ServeSettings)
    assert (settings.answer.timeout, settings.answer.warning) == (270.0, "")


def test_memory_that_nitro_cli_would_refuse(tmp_path: Path, sock: Path) -> None:
    eif = tmp_path / "x.eif"
    with eif.open("wb") as image:
        image.write(b".eif")
        image.truncate(400 << 20)
    auto = ("--timeout", "auto", "--eif", str(eif), "--memory")
    run = ("run", "-l", f"unix:{sock}", *auto)
    assert "--memory 1599 is too small" in nitrohb_here(*run, "1599", "--", "false")[2]
    assert "--memory" not in nitrohb_here(*run, "1600", "--", "false")[2]


def test_options_of_the_command_that_run_starts_are_its_own() -> None:
    settings = parse(["run", "--keep", "--", "ls", "--keep", "--", "-l", "x"])
    assert isinstance(settings, RunSettings)
    assert settings.answer.keep
    assert settings.answer.listen == [library.VsockAddress(library.CID_ANY, 9000)]
    assert settings.argv == ["ls", "--keep", "--", "-l", "x"]


def test_groups_and_users_have_names_and_numbers() -> None:
    group, user = grp.getgrall()[0], pwd.getpwall()[0]
    names = (group.gr_name, group.gr_gid, user.pw_name, user.pw_uid)
    for gid_text, gid, uid_text, uid in (names, ("4294967294", 2**32 - 2, "4294967294", 2**32 - 2)):
        settings = parse(["--socket-group", str(gid_text), "--allow-uid", str(uid_text)])
        assert isinstance(settings, ServeSettings)
        assert (settings.answer.socket_group, settings.answer.allow_uids) == (gid, [uid])


def test_settings_are_frozen() -> None:
    settings = parse([])
    with pytest.raises(AttributeError, match="ServeSettings is frozen"):
        settings.answer = None  # type: ignore[misc]
