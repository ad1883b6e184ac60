# SPDX-License-Identifier: Apache-2.0
"""What the command line takes, and what it says about what it does not take."""

import grp
import os
from pathlib import Path

import pytest

import nitrohb as library
from nitrohb.cli.limits import time_limit
from nitrohb.cli.parser import parse

from .process import nitrohb, redirected, started


def test_version() -> None:
    assert nitrohb("--version") == (0, f"nitrohb {library.__version__}\n", "")


COMMANDS = ["", "serve", "run", "send", "wait", "demo", "doctor", "completion"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str) -> None:
    code, out, err = nitrohb(*command.split(), "--help")
    assert (code, err) == (0, "")
    assert f"  nitrohb {command}" in out.partition("example")[2]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_a_screen_with_the_prompt_below(command: str) -> None:
    _, out, _ = nitrohb(*command.split(), "--help", env={"COLUMNS": "80"})
    high = {"serve": 50, "run": 50, "doctor": 30}  # the old terminal, but for the most options
    assert len(out.splitlines()) < high.get(command, 24)
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("args", [["demo", "--quiet"], ["send", "unix:x", "unix:y"]])
def test_unknown_argument_of_a_command_points_to_the_help_of_that_command(args: list[str]) -> None:
    assert nitrohb(*args)[2].endswith(f"\nTry: nitrohb {args[0]} --help\n")


@pytest.mark.parametrize("args", ["--help", "--version", "completion zsh", "doctor -l", "demo"])
@pytest.mark.parametrize(
    ("how", "why"), [(">&-", "it is closed"), (">/dev/full", "No space left on device")]
)
def test_a_command_whose_output_is_all_it_is_for_fails_without(
    args: str, how: str, why: str, sock: Path
) -> None:
    listen = [f"unix:{sock}"] if args.endswith("-l") else []
    with started(*args.split(), *listen, command=redirected(how)) as script:
        assert script.end() == (1, "", f"nitrohb: stdout: {why}; nothing more is printed there\n")


def test_a_reader_that_has_read_enough_is_no_failure() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with started("completion", "bash", stdout=writer) as script:
        os.close(writer)
        assert script.popen.wait() == 0


def test_a_mistake_that_nobody_can_read_of() -> None:
    with started("--hel", command=redirected(">&- 2>&-")) as script:
        assert script.end() == (2, "", "")


def test_help_of_send_names_only_addresses_that_can_be_connected_to() -> None:
    _, out, _ = nitrohb("send", "--help")
    assert "vsock:3:9000 " in out
    assert "vsock::9000" not in out
    assert "fd:" not in out


COMMAND = "the command stands after --, as in: nitrohb run [options] -- CMD ARG..."
NO_API = "the options that begin with --api- are of no use without --api"
NO_KEEP = (
    "--api needs --keep: a server that ends with its last heartbeat ends before the answer to a"
    " claim has left"
)
LONG = "/tmp/" + 103 * "x"


@pytest.mark.parametrize(
    ("args", "quoted"),
    [
        (["-l", "tcp:1:2"], "'tcp:1:2'"),
        (["-l", ""], "''"),
        (["-l", "vsock:9000"], "'vsock:9000'"),
        (["-l", "vsock::4294967296"], "'4294967296'"),
        (["-l", "vsock:x:9000"], "'vsock:x:9000'"),
        (["-l", "unix:"], "'unix:'"),
        (["-l", "unix:@x"], "'unix:@x'"),
        (["-l", "unix:a\nb"], "'unix:a\\nb'"),
        (["-l", f"unix:{LONG}"], f"at most 107 bytes, got 108 ('{LONG}')"),
        (["-l", "hybrid:/vm4"], "'hybrid:/vm4'"),
        (["-l", "fd:-1"], "'fd:-1'"),
        (["--allow-cid", "4x"], "'4x'"),
        (["--allow-cid", "-1"], "'-1'"),
        (["--timeout", "soon"], "'soon'"),
        (["--timeout", "0"], "'0'"),
        (["--timeout", "nan"], "'nan'"),
        (["--handshake-timeout", "inf"], "'inf'"),
        (["--max-pending", "0"], "'0'"),
        (["--max-pending", "many"], "'many'"),
        (["--socket-mode", "0o600"], "'0o600'"),
        (["--socket-mode", "1777"], "'1777'"),
        (["--socket-group", "no such group"], "'no such group'"),
        (["--format", "xml"], "'xml'"),
        (["--lis", "vsock::9000"], "--lis vsock::9000"),
        (["serve", "vsock::9000"], "vsock::9000"),
        (["listen"], "'listen'"),
        (["--timeout", "automatic"], "'automatic'"),
        (["--memory", "4G"], "'4G'"),
        (["--memory", "0"], "'0'"),
        (["run", "--kill-after", "0", "--", "true"], "'0'"),
        (["send", "unix:x", "unix:y"], "unknown arguments: unix:y"),
        (["demo", "--quiet"], "unknown arguments: --quiet"),
        (["help"], "there is no command 'help': choose from serve, run, send, wait, demo"),
        (["-l", "9000"], "'9000' is not an address: for port 9000 of every CID write vsock::9000"),
        (["-l", "/tmp/x"], "'/tmp/x' is not an address: for a Unix socket write unix:/tmp/x"),
        (["-l", "./a\nb"], "expected a path without control characters"),
        (["--log-level", "loud"], "'loud'"),
        (["send", "nowhere"], "'nowhere'"),
        (["completion", "tcsh"], "'tcsh'"),
        (["send", "--timeout", "-1"], "'-1'"),
        (["--quiet=1"], "argument --quiet: takes no value, got '1'"),
        (["--timeout", "soon"], "expected seconds, more than 0, or auto, got 'soon'"),
        (["wait", "--timeout", "auto"], "expected seconds, more than 0, got 'auto'"),
        (["doctor", "-l", "vsock:9000"], "'vsock:9000'"),
        (["doctor", "--max-pending", "0"], "'0'"),
        (["doctor", "--format", "xml"], "'xml'"),
        (["wait"], "one of the arguments --cid --address is required"),
        (["wait", "--cid", "1", "--address", "vsock::9000"], "not allowed with"),
        (["--api", "example.com:9180"], "'example.com:9180'"),
        (["--api", "127.0.0.1"], "'127.0.0.1'"),
        (["--api", "::1:9180"], "'::1:9180'"),
        (["--api", "[127.0.0.1]:9180"], "'[127.0.0.1]:9180'"),
        (["--api", "[fe80::1%1]:9180"], "'[fe80::1%1]:9180'"),
        (["--api", "localhost:65536"], "'65536'"),
        (["--api", "localhost:0"], "'localhost:0' leaves the port open"),
    ],
)
def test_malformed_argument_is_quoted(args: list[str], quoted: str) -> None:
    code, out, err = nitrohb(*args)
    assert (code, out) == (2, "")
    assert quoted in err
    message, remedy = err.splitlines()
    assert message.startswith("nitrohb")
    assert remedy.startswith("Try: nitrohb ")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["--allow-cid", "4", "-l", "unix:{sock}"],
            "unix:{sock} is a Unix socket, whose peers have no CID:"
            " a list of allowed CIDs works on vsock addresses only",
        ),
        (
            ["-l", "unix:{sock}", "-l", "unix:{sock}"],
            "unix:{sock} is named twice: an address can be listened on once",
        ),
        (
            ["--timeout", "auto", "-l", "unix:{sock}"],
            "--timeout auto needs both --eif PATH and --memory MIB",
        ),
        (
            ["--timeout", "auto", "--eif", "x.eif", "-l", "unix:{sock}"],
            "--timeout auto needs both --eif PATH and --memory MIB",
        ),
        (
            ["run", "--timeout", "auto", "--memory", "64", "-l", "unix:{sock}", "--", "true"],
            "--timeout auto needs both --eif PATH and --memory MIB",
        ),
        (
            ["--eif", "x.eif", "--timeout", "60", "-l", "unix:{sock}"],
            "--eif and --memory are of no use without --timeout auto",
        ),
        (
            ["run", "--memory", "64", "-l", "unix:{sock}", "--", "true"],
            "--eif and --memory are of no use without --timeout auto",
        ),
        (["-l", "unix:{sock}", "--api", "unix:{sock}2"], NO_KEEP),
        (
            ["-l", "hybrid:{sock}:9000", "--keep", "--api", "unix:{sock}_9000"],
            "hybrid:{sock}:9000 and unix:{sock}_9000 exclude each other: both are {sock}_9000. Name"
            " one of the two",
        ),
        (["-l", "unix:{sock}", "--keep", "--api-mode", "600"], NO_API),
        (["-l", "unix:{sock}", "--keep", "--api-group", "0"], NO_API),
        (["-l", "unix:{sock}", "--keep", "--api-allow-remote"], NO_API),
        (["-l", "unix:{sock}", "--keep", "--api-host", "example.com"], NO_API),
        (["run", "-l", "unix:{sock}"], COMMAND),
        (["run", "-l", "unix:{sock}", "--"], COMMAND),
        (["run", "-l", "unix:{sock}", "true"], COMMAND),
        (["run", "-l", "unix:{sock}", "ls", "--sort", "time"], COMMAND),
        (["run", "-l", "unix:{sock}", "true", "--", "true"], COMMAND),
        (["send", "fd:3"], "fd:3 is a listening socket: name an address to connect to"),
        (
            ["doctor", "-l", "unix:{sock}", "-l", "hybrid:{sock}:9000", "-l", "unix:{sock}_9000"],
            "hybrid:{sock}:9000 and unix:{sock}_9000 exclude each other: both are {sock}_9000. Name"
            " one of the two",
        ),
        (
            ["doctor", "-l", "unix:{sock}", "-l", "unix:{sock}"],
            "unix:{sock} is named twice: an address can be listened on once",
        ),
        (
            ["doctor", "-l", "vsock::4294967295"],
            "vsock::4294967295 leaves the port to the kernel, and no enclave could know which one"
            " it is: name a port (enclaves use 9000)",
        ),
        (
            ["send", "vsock::9000"],
            "vsock::9000 names no machine to connect to:"
            " write vsock:3:9000 for an enclave's parent",
        ),
    ],
)
def test_arguments_that_make_no_sense_together(args: list[str], message: str, sock: Path) -> None:
    result = nitrohb(*(arg.format(sock=sock) for arg in args))
    assert result == (2, "", f"nitrohb: {message.format(sock=sock)}\n")
    assert not sock.exists()


@pytest.mark.parametrize("command", [("serve",), ("run", "--", "true")])
@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("missing", "cannot be read: No such file or directory"),
        (".", "is no image: it must be a file, and not empty"),
        ("empty", "is no image: it must be a file, and not empty"),
    ],
)
def test_image_that_cannot_be_read(
    command: tuple[str, ...], name: str, problem: str, sock: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").touch()
    eif = tmp_path / name
    options = ("--timeout", "auto", "--eif", str(eif), "--memory", "64", "-l", f"unix:{sock}")
    result = nitrohb(command[0], *options, *command[1:])
    assert result == (2, "", f"nitrohb: --eif {eif} {problem}\n")
    assert not sock.exists()


def test_timeout_that_nitro_cli_would_take(tmp_path: Path) -> None:
    eif = tmp_path / "x.eif"
    with eif.open("wb") as image:
        image.truncate(6 * 1024**3 + 1)  # a hole: it takes no room
    args = parse(["--timeout", "auto", "--eif", str(eif), "--memory", str(100 * 1024)])
    assert time_limit(args) == 270.0


def test_options_of_the_command_that_run_starts_are_its_own() -> None:
    args = parse(["run", "--keep", "--", "ls", "--keep", "--", "-l", "x"])
    assert args.keep
    assert args.listen is None
    assert args.argv == ["ls", "--keep", "--", "-l", "x"]


def test_groups_have_names_and_numbers() -> None:
    group = grp.getgrall()[0]
    assert parse(["--socket-group", group.gr_name]).socket_group == group.gr_gid
    assert parse(["--socket-group", "987654321"]).socket_group == 987654321
