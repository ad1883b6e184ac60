# SPDX-License-Identifier: Apache-2.0
"""The command line: what can be written, and what is said about what cannot."""

from __future__ import annotations

import argparse
import math
import sys
from functools import partial

from .. import __version__
from ..addresses import parse_address, parse_number
from ..errors import AddressError
from . import exits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Final, NoReturn, TypeVar

    from ..addresses import Address
    from ..api.address import ApiAddress
    from .console import Console
    from .stop import Stop

    T = TypeVar("T")

    Command = Callable[[argparse.Namespace, Console, Stop], int]

__all__ = ["build_parser", "parse"]

_ADDRESSES: Final = """\
addresses:
  vsock:3:9000           AF_VSOCK port 9000 of CID 3
  unix:/run/x.sock       a Unix socket
  hybrid:/tmp/vm4:9000   port 9000 of a VM whose vsock is the socket /tmp/vm4
"""

_TO_LISTEN: Final = """\
  vsock::9000            AF_VSOCK port 9000, on every local CID
  fd:3, fd:NAME          an inherited socket, by its number or systemd's name
"""

_REPEAT: Final = "* may be repeated\n"

_EXIT_CODES: Final = """\
exit codes: 0 done, 1 failed, 2 usage, 124 timed out, 128 + n on signal n
"""

_RUN: Final = """\
The command finds the addresses in NITROHB_LISTEN, one a line. SIGTERM and a
time-out end it, and what it has left behind. Other signals are passed on to it.

exit codes: that of the command, or 128 + n if signal n ended it; or
  1 failed, 2 usage, 124 an address had no heartbeat in time,
  125 the command ended before its heartbeat, 126 it cannot be started,
  127 there is no such command
"""


# For each option that it adds, argparse makes a formatter, only to see that its metavar fits. One
# that is not told the width of a line loads shutil, to ask for the terminal's: that takes 3 ms.
_FORMATTER: Final = partial(argparse.RawDescriptionHelpFormatter, max_help_position=28)
_QUICK_FORMATTER: Final = partial(_FORMATTER, width=80)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and where to read more in another."""

    def format_help(self) -> str:
        """The help, as wide as the terminal."""
        self.formatter_class = _FORMATTER
        return super().format_help()

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print as all else is printed: to the journal with a priority, and if it can be."""
        from .console import Console

        console = Console()
        say = console.print if file is sys.stdout and file is not sys.stderr else console.say
        say(message.removesuffix("\n"))
        console.close()
        if console.has_lost:  # the help, or the version, which is all that was asked for
            sys.exit(exits.FAILED)

    def error(self, message: str) -> NoReturn:
        self.exit(exits.USAGE, f"{self.prog}: {message}\nTry: {self.prog} --help\n")


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
    parser.set_defaults(log_level="debug")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    # Each brings its module with it, and no command has to wait for another's.
    adders = {
        "serve": _add_serve,
        "run": _add_run,
        "send": _add_send,
        "wait": _add_wait,
        "demo": _add_demo,
        "doctor": _add_doctor,
        "completion": _add_completion,
    }
    if command and command not in adders and not command.startswith("-"):
        parser.error(f"there is no command {command!r}: choose from {', '.join(adders)}")
    for add_command in [adders[command]] if command in adders else adders.values():
        add_command(commands.add_parser)
    return parser


def _add_serve(add: Callable[..., _Parser]) -> None:
    from .serve import serve

    parser = _add(
        add,
        "serve",
        serve,
        "listen, answer enclaves' heartbeats, and report",
        "examples:\n"
        "  nitrohb serve                             one enclave, on vsock::9000\n"
        "  nitrohb serve --keep --allow-cid 16       enclave 16, at each of its boots\n"
        "  nitrohb serve -l hybrid:/tmp/vm4.vsock:9000 --format json --timeout 60\n\n"
        f"{_ADDRESSES}{_TO_LISTEN}\n{_REPEAT}{_EXIT_CODES}",
    )
    _add_answering(parser, "end with exit code 124 after it (default: never)", "stdout")
    _add_api(parser)


def _add_run(add: Callable[..., _Parser]) -> None:
    from .run import run

    parser = _add(
        add,
        "run",
        run,
        "listen, then start a command that boots enclaves",
        "examples:\n"
        "  nitrohb run --timeout 60 -- qemu-system-x86_64 -M nitro-enclave,...\n"
        "  nitrohb run --timeout auto --eif x.eif --memory 4096 -- ./launch x.eif\n"
        "  nitrohb run --keep --format json -- ./launch-many 2> events\n\n"
        f"{_RUN}\n{_ADDRESSES}{_TO_LISTEN}{_REPEAT}",
    )
    parser.usage = "nitrohb run [options] -- CMD [ARG ...]"
    parser.add_argument("misplaced", nargs="*", help=argparse.SUPPRESS)
    _add_answering(
        parser,
        "end the command, with exit code 124, if an ADDR had no heartbeat (default: never)",
        "stderr",
    )
    parser.add_argument(
        "--kill-after",
        metavar="SEC",
        type=_seconds,
        default=10.0,
        help="SIGKILL for what has not ended then (default: 10)",
    )


def _add_answering(parser: _Parser, timeout: str, output: str) -> None:
    """Add the options of every command that answers heartbeats."""
    parser.usage = parser.usage or f"{parser.prog} [options]"
    _add_answers(parser)
    _add_times(parser, timeout)
    _add_files(parser)
    _add_output(parser, output)


def _add_answers(parser: _Parser) -> None:
    _add_listen(parser)
    parser.add_argument(
        "--keep",
        action="store_true",
        help="go on after a heartbeat (default: one per ADDR)",
    )
    parser.add_argument(
        "--allow-cid",
        metavar="CID",
        dest="allow_cids",
        type=_cid,
        action="append",
        help="answer this CID only, on vsock (default: any) *",
    )
    parser.add_argument(
        "--any-byte",
        action="store_true",
        help="echo any byte, as QEMU does (default: only 0xB7)",
    )
    _add_max_pending(
        parser,
        "how many may be silent at a time (default: 1024)",
    )


def _add_times(parser: _Parser, timeout: str) -> None:
    group = parser.add_argument_group("time")
    group.add_argument(
        "--timeout",
        metavar="SEC|auto",
        type=_timeout,
        default=math.inf,
        help=f"{timeout}; auto: as nitro-cli",
    )
    group.add_argument("--eif", metavar="PATH", help="for auto: the enclave's image")
    group.add_argument(
        "--memory",
        metavar="MIB",
        type=_count,
        help="for auto: the enclave's memory",
    )
    group.add_argument(
        "--handshake-timeout",
        metavar="SEC",
        type=_seconds,
        default=5.0,
        help="how long a connection may be silent (default: 5)",
    )


def _add_files(parser: _Parser) -> None:
    group = parser.add_argument_group("socket files")
    group.add_argument(
        "--socket-mode",
        metavar="MODE",
        type=_mode,
        default=0o600,
        help="their permissions, in octal (default: 600)",
    )
    group.add_argument(
        "--socket-group",
        metavar="GROUP",
        type=_group,
        help="their group, a name or number (default: yours)",
    )


def _add_output(parser: _Parser, output: str) -> None:
    group = parser.add_argument_group("output")
    group.add_argument(
        "--format",
        choices=("text", "json"),
        default="text",
        help=f"of the events on {output} (default: text)",
    )
    group.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="debug",
        metavar="LEVEL",
        help="from debug (default), info, warning, or error up",
    )
    group.add_argument("--quiet", action="store_true", help="print no events")


def _add_api(parser: _Parser) -> None:
    group = parser.add_argument_group("HTTP interface (pip install 'nitrohb[api]')")
    group.add_argument(
        "--api",
        metavar="ADDR",
        type=_api,
        help="with --keep: offer it on unix:PATH or IP:PORT",
    )
    group.add_argument(
        "--api-mode",
        metavar="MODE",
        type=_mode,
        help="permissions of its socket file (default: 600)",
    )
    group.add_argument(
        "--api-group",
        metavar="GROUP",
        type=_group,
        help="group of its socket file (default: yours)",
    )
    group.add_argument(
        "--api-allow-remote",
        action="store_true",
        help="let other machines in: there are no passwords",
    )
    group.add_argument(
        "--api-host",
        metavar="NAME",
        action="append",
        default=[],
        help="a host name by which clients call it *",
    )


def _add_send(add: Callable[..., _Parser]) -> None:
    from .send import send

    parser = _add(
        add,
        "send",
        send,
        "send a heartbeat and await its echo, as an enclave's init does",
        "examples:\n"
        "  nitrohb send                      from an enclave to its parent, vsock:3:9000\n"
        "  nitrohb send unix:/run/x.sock     to a server on this machine\n\n"
        f"{_ADDRESSES}\n{_EXIT_CODES}",
    )
    parser.add_argument(
        "address",
        metavar="ADDR",
        nargs="?",
        type=_address,
        help="where to connect to (default: vsock:3:9000)",
    )
    parser.add_argument(
        "--timeout",
        metavar="SEC",
        type=_seconds,
        default=5.0,
        help="end with exit code 124 after this time (default: 5)",
    )


def _add_wait(add: Callable[..., _Parser]) -> None:
    from .wait import wait

    parser = _add(
        add,
        "wait",
        wait,
        "claim one enclave's heartbeat from a running serve --keep --api",
        "examples:\n"
        "  nitrohb wait --cid 16                         the enclave with that CID\n"
        "  nitrohb wait --address unix:/run/vm4.sock     that which boots there\n\n"
        f"Each heartbeat is claimed once.\n\n{_EXIT_CODES}",
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--cid", metavar="CID", type=_cid, help="wait for the enclave with this CID")
    which.add_argument(
        "--address",
        metavar="ADDR",
        type=_address,
        help="wait for a heartbeat on this listen address of the server",
    )
    parser.add_argument(
        "--timeout",
        metavar="SEC",
        type=_seconds,
        default=60.0,
        help="end with exit code 124 after this time (default: 60)",
    )
    parser.add_argument(
        "--max-age",
        metavar="SEC",
        type=_age,
        default=60.0,
        help="how long ago it may have come (default: 60)",
    )
    parser.add_argument(
        "--api",
        metavar="ADDR",
        type=_api,
        help="where the server has its interface (default: unix:/run/nitrohb/api.sock)",
    )
    parser.add_argument(
        "--format",
        choices=("text", "json"),
        default="text",
        help="how the heartbeat is printed to stdout (default: text)",
    )


def _add_demo(add: Callable[..., _Parser]) -> None:
    from .demo import demo

    _add(
        add,
        "demo",
        demo,
        "show both sides of a boot, on a temporary Unix socket",
        f"example:\n  nitrohb demo\n\n{_EXIT_CODES}",
    )


def _add_doctor(add: Callable[..., _Parser]) -> None:
    from .doctor import doctor

    parser = _add(
        add,
        "doctor",
        doctor,
        "check what this machine can do, what it lacks, and what helps",
        "examples:\n"
        "  nitrohb doctor                        can it listen on vsock::9000?\n"
        "  nitrohb doctor -l unix:/run/x.sock    ... and there?\n"
        "  nitrohb doctor --format json          for a bug report, or a program\n\n"
        "Each address is listened on for a moment. Nothing is changed, no file is left.\n\n"
        f"{_ADDRESSES}{_TO_LISTEN}\n{_REPEAT}"
        "exit codes: 0 the addresses can be listened on, 1 they cannot, 2 usage\n",
    )
    _add_listen(parser)
    _add_max_pending(parser, "how many silent connections serve should allow (default: 1024)")
    parser.add_argument(
        "--format",
        choices=("text", "json"),
        default="text",
        help="a table on a terminal, or else lines; or one JSON object (default: text)",
    )


def _add_listen(parser: _Parser) -> None:
    parser.add_argument(
        "-l",
        "--listen",
        metavar="ADDR",
        type=_address,
        action="append",
        help="listen here (default: systemd's, or vsock::9000) *",
    )


def _add_max_pending(parser: _Parser, text: str) -> None:
    parser.add_argument("--max-pending", metavar="N", type=_count, default=1024, help=text)


def _add_completion(add: Callable[..., _Parser]) -> None:
    from .completion import SHELLS, completion

    parser = _add(
        add,
        "completion",
        completion,
        "print what lets a shell complete these commands and options",
        "examples:\n"
        '  eval "$(nitrohb completion bash)"           in ~/.bashrc\n'
        '  eval "$(nitrohb completion zsh)"            in ~/.zshrc, after compinit\n'
        "  nitrohb completion fish | source            in ~/.config/fish/config.fish\n",
    )
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help="bash, zsh or fish")


def _add(
    add: Callable[..., _Parser], name: str, command: Command, summary: str, more: str
) -> _Parser:
    parser = add(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=more,
        formatter_class=_QUICK_FORMATTER,
        allow_abbrev=False,
    )
    parser.set_defaults(command=command, complain=parser.error)
    return parser


def _address(text: str) -> Address:
    return _checked(parse_address, text)


def _api(text: str) -> ApiAddress:
    from ..api.address import parse_api_address  # here, because it is seldom asked for

    return _checked(parse_api_address, text)


def _count(text: str) -> int:
    count = _checked(lambda number: parse_number("number", number), text)
    if count == 0:
        raise argparse.ArgumentTypeError("expected a number from 1 up, got '0'")
    return count


def _cid(text: str) -> int:
    return _checked(lambda cid: parse_number("CID", cid), text)


def _checked(parse: Callable[[str], T], text: str) -> T:
    try:
        return parse(text)
    except AddressError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _seconds(text: str) -> float:
    if not 0 < (seconds := _number(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"expected seconds, more than 0, got {text!r}")
    return seconds


def _age(text: str) -> float:
    if not 0 <= (seconds := _number(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"expected seconds, at least 0, got {text!r}")
    return seconds


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _timeout(text: str) -> float | None:
    if text == "auto":
        return None
    try:
        return _seconds(text)
    except argparse.ArgumentTypeError:
        message = f"expected seconds, more than 0, or auto, got {text!r}"
        raise argparse.ArgumentTypeError(message) from None


def _mode(text: str) -> int:
    if not text or len(text) > 4 or set(text) - set("01234567") or int(text, 8) > 0o777:
        raise argparse.ArgumentTypeError(f"expected an octal mode from 0 to 777, got {text!r}")
    return int(text, 8)


def _group(text: str) -> int:
    import grp  # here, because it is seldom asked for

    try:
        return grp.getgrnam(text).gr_gid
    except KeyError:
        pass
    if text.isascii() and text.isdigit() and len(text) < 10:
        return int(text)
    raise argparse.ArgumentTypeError(f"expected the name or number of a group, got {text!r}")
