# SPDX-License-Identifier: Apache-2.0
"""Read the command line with argparse."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import suppress
from functools import partial

from .. import __version__
from ..errors import UsageError
from . import exit_codes
from .output import Output

# This module is loaded before the script listens: see cli/__init__.py.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Final, NoReturn

    from .settings import CommandSettings

COMMANDS: Final = {
    "serve": "listen for enclaves and answer their heartbeats",
    "run": "listen, then run a command that boots enclaves",
    "send": "send a heartbeat and wait for its echo, as an enclave does",
    "wait": "wait for the heartbeat of an enclave (needs serve --keep --api)",
    "listen": "add a listen address to a running serve --keep --api",
    "unlisten": "remove a listen address from a running serve --keep --api",
    "demo": "show both sides of a boot on a temporary Unix socket",
    "doctor": "check whether a heartbeat can arrive on this machine",
    "completion": "print the completion script for a shell",
}
"""What each command does."""

# argparse makes a formatter for each option. Without a width, the formatter loads shutil in
# 3 ms, to ask for the width of the terminal.
_FORMATTER: Final = partial(argparse.RawDescriptionHelpFormatter, max_help_position=28, width=80)


def parse(argv: Sequence[str]) -> CommandSettings:
    """Read a command line. Options without a command are those of ``serve``.

    Raises:
        SystemExit: It asks for help or for the version.
        UsageError: The command line or a variable of the environment makes no sense.
    """
    argv, child_argv = _split(list(argv))
    own = ("-h", "--help", "--version")
    if not argv or (argv[0].startswith("-") and argv[0] not in own):
        argv.insert(0, "serve")
    parser = build_parser(argv[0])
    args, unknown = parser.parse_known_args(argv, argparse.Namespace(argv=child_argv, misplaced=[]))
    if unknown and (child_argv or not args.misplaced):
        args.error(f"unknown arguments: {' '.join(unknown)}")
    from .settings import make_settings  # not needed for the help and the version

    return make_settings(args)


def wants_json(argv: Sequence[str]) -> bool:
    """Whether a command line says ``--format json``. It can have mistakes elsewhere."""
    own, _ = _split([*argv])
    pairs = zip(own, [*own[1:], ""], strict=False)
    found = [word[9:] or after for word, after in pairs if word.split("=")[0] == "--format"]
    return found[-1:] == ["json"]


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    """Separate the command of ``run``: argparse must not read its options."""
    if argv[:1] != ["run"] or "--" not in argv:
        return argv, []
    end = argv.index("--")
    return argv[:end], argv[end + 1 :]


class _Parser(argparse.ArgumentParser):
    def format_help(self) -> str:
        """Return the help, as wide as the terminal."""
        self.formatter_class = partial(_FORMATTER, width=_terminal_width() - 2)
        return super().format_help()

    def _print_message(self, message: str, file: Any = None) -> None:
        del file  # the help and the version go to stdout
        output = Output()
        output.print_out(message.removesuffix("\n"))
        output.close()
        if output.has_dropped_lines:
            sys.exit(exit_codes.FAILED)

    def error(self, message: str) -> NoReturn:
        """Raise a UsageError."""
        message = message.replace("ignored explicit argument", "takes no value, got")
        raise UsageError(f"{message}\nTry: {self.prog} --help")


def _terminal_width() -> int:
    with suppress(ValueError):
        return int(os.environ.get("COLUMNS", "")) or 80
    with suppress(OSError, ValueError):
        return os.get_terminal_size(sys.__stdout__.fileno() if sys.__stdout__ else -1).columns or 80
    return 80


class _ListedCommand:
    """Stands in for the parser of a command where the help only lists the command."""

    def __init__(self, **_: object) -> None:
        pass


def build_parser(command: str = "") -> argparse.ArgumentParser:
    """Make the parser, with the options of one command or of all commands."""
    parser = _Parser(
        prog="nitrohb",
        description="Answer the boot heartbeat of AWS Nitro Enclaves, real or emulated.",
        epilog="example:\n"
        "  nitrohb                    wait for one enclave on vsock::9000 and answer it\n",
        formatter_class=_FORMATTER,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"nitrohb {__version__}")
    listed = command.startswith("-")
    kind: Any = _ListedCommand if listed else _Parser
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=kind)
    if command and command not in COMMANDS and not listed:
        parser.error(f"there is no command {command!r}: choose from {', '.join(COMMANDS)}")
    for name in [command] if command in COMMANDS else COMMANDS:
        if listed:
            commands.add_parser(name, help=COMMANDS[name])
        else:
            _add_command(commands.add_parser, name)
    return parser


def _add_command(add_parser: Callable[..., Any], name: str) -> None:
    from .options import OPTIONS  # not needed for the list of commands

    summary, (epilog, groups, usage, exclusive) = COMMANDS[name], OPTIONS[name]
    parser = add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=epilog,
        usage=usage,
        formatter_class=_FORMATTER,
        allow_abbrev=False,
    )
    parser.set_defaults(command=name, error=parser.error)
    if exclusive:
        group: Any = parser.add_mutually_exclusive_group(required=True)
        for names, kwargs in exclusive:
            group.add_argument(*names, **kwargs)
    for title, options in groups.items():
        group = parser.add_argument_group(title) if title else parser
        for names, kwargs in options:
            group.add_argument(*names, **kwargs)
