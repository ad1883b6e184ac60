# SPDX-License-Identifier: Apache-2.0
"""The door: read the command line with argparse, and make typed settings of it."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from functools import partial

from .. import __version__
from ..addresses import CID_ANY, UnixAddress, VsockAddress
from ..errors import UsageError
from ..protocol import HEARTBEAT_PORT, PARENT_CID
from ..sockets.activation import inherited_sockets
from . import exits
from .options import COMMANDS
from .output import LEVELS, NOTHING, Output, quoted
from .settings import (
    AnswerSettings,
    CompletionSettings,
    DemoSettings,
    DoctorSettings,
    RunSettings,
    SendSettings,
    ServeSettings,
    TcpApi,
    UnixApi,
    WaitSettings,
)

# This module is loaded before the script listens: see cli/__init__.py.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Sequence
    from typing import Any, Final, NoReturn

    from ..addresses import Address
    from .settings import CommandSettings

__all__ = ["build_parser", "parse"]

# argparse makes a formatter for each option that it adds. A formatter without a width loads shutil
# to ask for the width of the terminal, which takes 3 ms.
_FORMATTER: Final = partial(argparse.RawDescriptionHelpFormatter, max_help_position=28)
_QUICK_FORMATTER: Final = partial(_FORMATTER, width=80)


def parse(argv: Sequence[str]) -> CommandSettings:
    """Read a command line. Options without a command are those of ``serve``.

    Raises:
        SystemExit: It asks for help or for the version, or argparse cannot read it.
        UsageError: Its options contradict each other, or a variable of the environment makes no
            sense.
    """
    argv, launched = _split(list(argv))
    own = ("-h", "--help", "--version")
    if not argv or (argv[0].startswith("-") and argv[0] not in own):
        argv.insert(0, "serve")
    parser = build_parser(argv[0])
    args, unknown = parser.parse_known_args(argv, argparse.Namespace(argv=launched, misplaced=[]))
    if args.misplaced or (args.command == "run" and not launched):
        raise UsageError("write the command after --, as in: nitrohb run [options] -- CMD ARG...")
    if unknown:
        args.complain(f"unknown arguments: {' '.join(unknown)}")
    return _MAKERS[args.command](args)


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    """Take off the command of ``run``: argparse must not read its options."""
    if argv[:1] != ["run"] or "--" not in argv:
        return argv, []
    end = argv.index("--")
    return argv[:end], argv[end + 1 :]


# argparse.


class _Parser(argparse.ArgumentParser):
    def format_help(self) -> str:
        """The help, as wide as the terminal."""
        self.formatter_class = _FORMATTER
        return super().format_help()

    def _print_message(self, message: str, file: Any = None) -> None:
        output = Output()
        is_wanted = file is sys.stdout and file is not sys.stderr
        (output.print if is_wanted else output.say)(message.removesuffix("\n"))
        output.close()
        if output.has_lost:  # the help or the version, which is all that was asked for
            sys.exit(exits.FAILED)

    def error(self, message: str) -> NoReturn:
        """Exit with a message about a mistake."""
        message = message.replace("ignored explicit argument", "takes no value, got")
        self.exit(exits.USAGE, f"{self.prog}: {message}\nTry: {self.prog} --help\n")


def build_parser(command: str = "") -> argparse.ArgumentParser:
    """Make the parser, with the options of one command, or of all of them for the help."""
    parser = _Parser(
        prog="nitrohb",
        description="Answer the boot heartbeat of AWS Nitro Enclaves, real or emulated.",
        epilog="examples:\n"
        "  nitrohb demo               see a heartbeat answered, on any machine\n"
        "  nitrohb                    wait for one enclave on vsock::9000, and answer it\n"
        "  nitrohb run -- ./launch    start one by a command, when somebody listens\n",
        formatter_class=_QUICK_FORMATTER,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"nitrohb {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    if command and command not in COMMANDS and not command.startswith("-"):
        parser.error(f"there is no command {command!r}: choose from {', '.join(COMMANDS)}")
    for name in [command] if command in COMMANDS else COMMANDS:
        _add_command(commands.add_parser, name, with_options=not command.startswith("-"))
    return parser


def _add_command(add_parser: Callable[..., _Parser], name: str, *, with_options: bool) -> None:
    command = COMMANDS[name]
    parser = add_parser(
        name,
        help=command.summary,
        description=f"{command.summary[0].upper()}{command.summary[1:]}.",
        epilog=command.more,
        usage=command.usage,
        formatter_class=_QUICK_FORMATTER,
        allow_abbrev=False,
    )
    parser.set_defaults(command=name, complain=parser.error)
    if not with_options:  # the help lists the commands only
        return
    if command.either:
        either = parser.add_mutually_exclusive_group(required=True)
        for names, how in command.either:
            either.add_argument(*names, **how)
    for title, options in command.groups.items():
        group = parser.add_argument_group(title) if title else parser
        for names, how in options:
            group.add_argument(*names, **how)


# Settings.


def _answer(args: Namespace) -> AnswerSettings:
    level = LEVELS[args.log_level]
    return AnswerSettings(
        listen=_listen(args),
        keep=args.keep,
        allow_cids=args.allow_cids,
        any_byte=args.any_byte,
        max_pending=args.max_pending,
        handshake_timeout=args.handshake_timeout,
        timeout=_timeout(args),
        socket_mode=args.socket_mode,
        socket_group=args.socket_group,
        format=args.format,
        event_level=NOTHING if args.quiet else level,
        level=level,
    )


def _listen(args: Namespace) -> Sequence[Address]:
    return args.listen or inherited_sockets() or [VsockAddress(CID_ANY, HEARTBEAT_PORT)]


def _timeout(args: Namespace) -> float:
    if args.timeout is not None:
        if args.eif is not None or args.memory is not None:
            raise UsageError("--eif and --memory are of no use without --timeout auto")
        return float(args.timeout)
    if args.eif is None or args.memory is None:
        raise UsageError("--timeout auto needs both --eif PATH and --memory MIB")
    from ..timeouts import boot_timeout  # few need it

    return boot_timeout(_image_size(args.eif), args.memory)


def _image_size(path: str) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"--eif {quoted(path)} cannot be read: {error.strerror}") from error
    try:
        status = os.fstat(fd)
    finally:
        os.close(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_size == 0:
        raise UsageError(f"--eif {quoted(path)} is not an image: it must be a file, and not empty")
    return status.st_size


def _serve(args: Namespace) -> ServeSettings:
    return ServeSettings(answer=_answer(args), api=_api(args))


def _api(args: Namespace) -> UnixApi | TcpApi | None:
    address, has_file_options = args.api, (args.api_mode, args.api_group) != (None, None)
    if address is None:
        if has_file_options or args.api_allow_remote or args.api_host:
            raise UsageError("the options that begin with --api- are of no use without --api")
        return None
    if not args.keep:
        raise UsageError(
            "--api needs --keep: a server that ends with its last heartbeat ends before the answer"
            " to a claim has left"
        )
    if isinstance(address, UnixAddress):
        if args.api_host or args.api_allow_remote:
            raise UsageError(f"--api-host and --api-allow-remote are for TCP, not for {address}")
        mode = 0o600 if args.api_mode is None else args.api_mode
        return UnixApi(address=address, mode=mode, group=args.api_group)
    if has_file_options:
        raise UsageError(f"--api-mode and --api-group are for a Unix socket, not for {address}")
    if not (address.ip.is_loopback or args.api_allow_remote):
        raise UsageError(
            f"--api {address}: other machines reach this address, and there are no passwords:"
            " use 127.0.0.1 or a Unix socket, or say --api-allow-remote"
        )
    return TcpApi(address=address, hosts=frozenset(name.lower() for name in args.api_host))


def _run(args: Namespace) -> RunSettings:
    return RunSettings(answer=_answer(args), argv=args.argv, kill_after=args.kill_after)


def _send(args: Namespace) -> SendSettings:
    address = args.address or VsockAddress(PARENT_CID, HEARTBEAT_PORT)
    return SendSettings(address=address, timeout=args.timeout)


def _wait(args: Namespace) -> WaitSettings:
    return WaitSettings(
        enclave=args.address if args.cid is None else args.cid,
        api=args.api or UnixAddress("/run/nitrohb/api.sock"),
        timeout=args.timeout,
        max_age=args.max_age,
        format=args.format,
    )


def _demo(_args: Namespace) -> DemoSettings:
    return DemoSettings()


def _doctor(args: Namespace) -> DoctorSettings:
    return DoctorSettings(listen=_listen(args), max_pending=args.max_pending, format=args.format)


def _completion(args: Namespace) -> CompletionSettings:
    return CompletionSettings(shell=args.shell)


_MAKERS: Final[dict[str, Callable[[Namespace], CommandSettings]]] = {
    "serve": _serve,
    "run": _run,
    "send": _send,
    "wait": _wait,
    "demo": _demo,
    "doctor": _doctor,
    "completion": _completion,
}
