# SPDX-License-Identifier: Apache-2.0
"""The commands, each with its options and its help.

Each brings its module with it, and no command has to wait for another's.
"""

from __future__ import annotations

import argparse

from . import values
from .argument_parser import QUICK_FORMATTER
from .options import add_answering, add_api, add_listen, add_max_pending

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    from .argument_parser import Parser
    from .console import Console
    from .stop import Stop

    Command = Callable[[argparse.Namespace, Console, Stop], int]

__all__ = ["ADDERS"]

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


def add_serve(add: Callable[..., Parser]) -> None:
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
    add_answering(parser, "end with exit code 124 after it (default: never)", "stdout")
    add_api(parser)


def add_run(add: Callable[..., Parser]) -> None:
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
    add_answering(
        parser,
        "end the command, with exit code 124, if an ADDR had no heartbeat (default: never)",
        "stderr",
    )
    parser.add_argument(
        "--kill-after",
        metavar="SEC",
        type=values.seconds,
        default=10.0,
        help="SIGKILL for what has not ended then (default: 10)",
    )


def add_send(add: Callable[..., Parser]) -> None:
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
        type=values.address,
        help="where to connect to (default: vsock:3:9000)",
    )
    parser.add_argument(
        "--timeout",
        metavar="SEC",
        type=values.seconds,
        default=5.0,
        help="end with exit code 124 after this time (default: 5)",
    )


def add_wait(add: Callable[..., Parser]) -> None:
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
    which.add_argument(
        "--cid", metavar="CID", type=values.cid, help="wait for the enclave with this CID"
    )
    which.add_argument(
        "--address",
        metavar="ADDR",
        type=values.address,
        help="wait for a heartbeat on this listen address of the server",
    )
    parser.add_argument(
        "--timeout",
        metavar="SEC",
        type=values.seconds,
        default=60.0,
        help="end with exit code 124 after this time (default: 60)",
    )
    parser.add_argument(
        "--max-age",
        metavar="SEC",
        type=values.age,
        default=60.0,
        help="how long ago it may have come (default: 60)",
    )
    parser.add_argument(
        "--api",
        metavar="ADDR",
        type=values.api,
        help="where the server has its interface (default: unix:/run/nitrohb/api.sock)",
    )
    parser.add_argument(
        "--format",
        choices=("text", "json"),
        default="text",
        help="how the heartbeat is printed to stdout (default: text)",
    )


def add_demo(add: Callable[..., Parser]) -> None:
    from .demo import demo

    _add(
        add,
        "demo",
        demo,
        "show both sides of a boot, on a temporary Unix socket",
        f"example:\n  nitrohb demo\n\n{_EXIT_CODES}",
    )


def add_doctor(add: Callable[..., Parser]) -> None:
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
        "exit codes: 0 serve can listen, 1 an address or the self-test failed, 2 usage\n",
    )
    add_listen(parser)
    add_max_pending(parser, "how many silent connections serve should allow (default: 1024)")
    parser.add_argument(
        "--format",
        choices=("text", "json"),
        default="text",
        help="lines of text, or one JSON object (default: text)",
    )


def add_completion(add: Callable[..., Parser]) -> None:
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
    add: Callable[..., Parser], name: str, command: Command, summary: str, more: str
) -> Parser:
    parser = add(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=more,
        formatter_class=QUICK_FORMATTER,
        allow_abbrev=False,
    )
    parser.set_defaults(command=command, complain=parser.error)
    return parser


ADDERS: Final[dict[str, Callable[[Callable[..., Parser]], None]]] = {
    "serve": add_serve,
    "run": add_run,
    "send": add_send,
    "wait": add_wait,
    "demo": add_demo,
    "doctor": add_doctor,
    "completion": add_completion,
}
