# SPDX-License-Identifier: Apache-2.0
"""The command line: what can be written, and what is said about what cannot."""

from __future__ import annotations

import argparse

from .. import __version__
from .argument_parser import QUICK_FORMATTER, Parser
from .commands import ADDERS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["build_parser", "parse"]


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line; ``command`` of the result is the function to call.

    Options without a command are those of ``serve``.

    Raises:
        SystemExit: It asks for help or for the version, or it is wrong.
    """
    argv, launched = _split(list(argv))
    own = ("-h", "--help", "--version")
    if not argv or (argv[0].startswith("-") and argv[0] not in own):
        argv.insert(0, "serve")
    start = argparse.Namespace(argv=launched, misplaced=[])
    args, unknown = build_parser(argv[0]).parse_known_args(argv, start)
    if unknown and not args.misplaced:  # else they are the options of a command without its --
        args.complain(f"unknown arguments: {' '.join(unknown)}")
    return args


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    """Take off the command that ``run`` is to start: argparse must not look at its options."""
    if argv[:1] != ["run"] or "--" not in argv:
        return argv, []
    end = argv.index("--")
    return argv[:end], argv[end + 1 :]


def build_parser(command: str = "") -> argparse.ArgumentParser:
    """The command line as argparse has it: of the commands only the given one, or all for help."""
    parser = Parser(
        prog="nitrohb",
        description="Answer the boot heartbeat of AWS Nitro Enclaves, real or emulated.",
        epilog="examples:\n"
        "  nitrohb demo               see a heartbeat answered, on any machine\n"
        "  nitrohb                    wait for one enclave on vsock::9000, and answer it\n"
        "  nitrohb run -- ./launch    start one by a command, when somebody listens\n",
        formatter_class=QUICK_FORMATTER,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"nitrohb {__version__}")
    parser.set_defaults(log_level="debug")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    if command and command not in ADDERS and not command.startswith("-"):
        parser.error(f"there is no command {command!r}: choose from {', '.join(ADDERS)}")
    for add_command in [ADDERS[command]] if command in ADDERS else ADDERS.values():
        add_command(commands.add_parser)
    return parser
