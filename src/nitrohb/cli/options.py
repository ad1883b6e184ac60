# SPDX-License-Identifier: Apache-2.0
"""The options that several commands have, and those of the HTTP interface."""

from __future__ import annotations

import math

from . import values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .argument_parser import Parser

__all__ = ["add_answering", "add_api", "add_listen", "add_max_pending"]


def add_answering(parser: Parser, timeout: str, output: str) -> None:
    """Add the options of every command that answers heartbeats."""
    parser.usage = parser.usage or f"{parser.prog} [options]"
    _add_answers(parser)
    _add_times(parser, timeout)
    _add_files(parser)
    _add_output(parser, output)


def _add_answers(parser: Parser) -> None:
    add_listen(parser)
    parser.add_argument(
        "--keep",
        action="store_true",
        help="go on after a heartbeat (default: one per ADDR)",
    )
    parser.add_argument(
        "--allow-cid",
        metavar="CID",
        dest="allow_cids",
        type=values.cid,
        action="append",
        help="answer this CID only, on vsock (default: any) *",
    )
    parser.add_argument(
        "--any-byte",
        action="store_true",
        help="echo any byte, as QEMU does (default: only 0xB7)",
    )
    add_max_pending(
        parser,
        "how many may be silent at a time (default: 1024)",
    )


def _add_times(parser: Parser, timeout: str) -> None:
    group = parser.add_argument_group("time")
    group.add_argument(
        "--timeout",
        metavar="SEC|auto",
        type=values.timeout,
        default=math.inf,
        help=f"{timeout}; auto: as nitro-cli",
    )
    group.add_argument("--eif", metavar="PATH", help="for auto: the enclave's image")
    group.add_argument(
        "--memory",
        metavar="MIB",
        type=values.count,
        help="for auto: the enclave's memory",
    )
    group.add_argument(
        "--handshake-timeout",
        metavar="SEC",
        type=values.seconds,
        default=5.0,
        help="how long a connection may be silent (default: 5)",
    )


def _add_files(parser: Parser) -> None:
    group = parser.add_argument_group("socket files")
    group.add_argument(
        "--socket-mode",
        metavar="MODE",
        type=values.mode,
        default=0o600,
        help="their permissions, in octal (default: 600)",
    )
    group.add_argument(
        "--socket-group",
        metavar="GROUP",
        type=values.group,
        help="their group, a name or number (default: yours)",
    )


def _add_output(parser: Parser, output: str) -> None:
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


def add_api(parser: Parser) -> None:
    """Add the options of a command that offers the HTTP interface."""
    group = parser.add_argument_group("HTTP interface (pip install 'nitrohb[api]')")
    group.add_argument(
        "--api",
        metavar="ADDR",
        type=values.api,
        help="with --keep: offer it on unix:PATH or IP:PORT",
    )
    group.add_argument(
        "--api-mode",
        metavar="MODE",
        type=values.mode,
        help="permissions of its socket file (default: 600)",
    )
    group.add_argument(
        "--api-group",
        metavar="GROUP",
        type=values.group,
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


def add_listen(parser: Parser) -> None:
    """Add where to listen."""
    parser.add_argument(
        "-l",
        "--listen",
        metavar="ADDR",
        type=values.address,
        action="append",
        help="listen here (default: systemd's, or vsock::9000) *",
    )


def add_max_pending(parser: Parser, text: str) -> None:
    """Add how many connections may be silent."""
    parser.add_argument("--max-pending", metavar="N", type=values.count, default=1024, help=text)
