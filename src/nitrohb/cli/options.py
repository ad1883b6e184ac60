# SPDX-License-Identifier: Apache-2.0
"""The options of each command, and their help."""

from __future__ import annotations

import argparse
import math

from . import values
from .output import LEVELS

# This module is loaded before the script listens: see cli/__init__.py.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Final, TypeVar

    T = TypeVar("T")
    Option = tuple[Sequence[str], dict[str, Any]]
    Groups = dict[str, list[Option]]
    Command = tuple[str, Groups, str | None, Sequence[Option]]

SHELLS: Final = ("bash", "zsh", "fish")
KINDS: Final = ("nitro", "qemu", "firecracker", "cloud-hypervisor")
"""The kinds of enclaves that ``doctor --for`` knows."""


def _option(spelling: str, text: str, **kwargs: Any) -> Option:
    """An option, such as ``-l --listen ADDR``. ``type`` parses it, or the metavar's parser."""
    *names, metavar = spelling.split()
    return names, {"metavar": metavar, "help": text, "type": _PARSERS[metavar], **kwargs}


def _flag(name: str, text: str) -> Option:
    return [name], {"action": "store_true", "help": text}


def _choice(name: str, choices: Sequence[str], text: str, **kwargs: Any) -> Option:
    return [name], {"choices": choices, "default": choices[0], "help": text, **kwargs}


_PARSERS: Final[dict[str, Callable[[str], object]]] = {
    "ADDR": values.address,
    "ADDR|auto": values.console,
    "CID": values.cid,
    "GROUP": values.group,
    "MIB": values.count,
    "MODE": values.mode,
    "N": values.count,
    "NAME": str,
    "PATH|fd:N": str,
    "PATH": str,
    "SEC": values.seconds,
    "SEC|auto": values.timeout,
    "USER": values.user,
}

_FORMATS: Final = ("text", "json")

_LISTEN: Final = _option(
    "-l --listen ADDR",
    "address (default: from systemd, or vsock::9000) *",
    type=values.listen,
    action="append",
)


_SOCKET_FILES: Final = [
    _option("--socket-mode MODE", "permissions, in octal (default: 600)", default=0o600),
    _option("--socket-group GROUP", "group, by name or number (default: yours)"),
]


def _max_pending(text: str) -> Option:
    return _option("--max-pending N", f"{text} (default: 1024)", default=1024)


def _answer_options(timeout: str, output: str) -> Groups:
    allow_cid = "answer only this CID, on vsock (default: any) *"
    allow_uid = "answer only this user, on Unix sockets *"
    silence = "time limit for a silent connection"
    log_level = "lowest level: debug (default), info, warning, error"
    return {
        "": [
            _LISTEN,
            _flag("--keep", "keep listening (default: one heartbeat per ADDR)"),
            _option("--allow-cid CID", allow_cid, action="append", dest="allow_cids"),
            _option("--allow-uid USER", allow_uid, action="append", dest="allow_uids"),
            _flag("--any-byte", "echo any byte, as QEMU does (default: only 0xB7)"),
            _max_pending("maximum silent connections"),
        ],
        "time": [
            _option("--timeout SEC|auto", f"{timeout}; auto: like nitro-cli", default=math.inf),
            _option("--eif PATH", "image of the enclave, for --timeout auto"),
            _option("--memory MIB", "memory of the enclave, for --timeout auto"),
            _option("--handshake-timeout SEC", f"{silence} (default: 5)", default=5.0),
        ],
        "socket files": _SOCKET_FILES,
        "output": [
            _choice("--format", _FORMATS, "format of events and messages (default: text)"),
            _option("--events PATH|fd:N", f"write events here (default: {output})"),
            _option("--ready-fd N", "write a newline to it when every ADDR listens", type=str),
            _choice("--log-level", (*reversed(LEVELS),), log_level, metavar="LEVEL"),
            _flag("--quiet", "print no events"),
        ],
    }


def _serve_options() -> Groups:
    api = "serve it on unix:PATH or IP:PORT (default: as for wait); needs --keep"
    host = "answer clients that use this host name *"
    return _answer_options("exit with 124 after SEC seconds (default: never)", "stdout") | {
        "HTTP interface (needs the extra api)": [
            _option("--api ADDR", api, type=values.api, nargs="?", const=True),
            _option("--api-mode MODE", "permissions of its socket file (default: 600)"),
            _option("--api-group GROUP", "group of its socket file (default: yours)"),
            _flag("--api-allow-remote", "allow other machines (there are no passwords)"),
            _option("--api-host NAME", host, action="append", default=[]),
        ]
    }


def _run_options() -> Groups:
    groups = _answer_options(
        "end the command and exit with 124 if an ADDR has no heartbeat after SEC seconds"
        " (default: never)",
        "stderr",
    )
    kill_after = "seconds from SIGTERM to SIGKILL (default: 10)"
    # Operands before "--": settings.py rejects them with a better message.
    groups[""].append((["misplaced"], {"nargs": "*", "help": argparse.SUPPRESS}))
    groups["time"].append(_option("--kill-after SEC", kill_after, default=10.0))
    console = "guest console: print its last lines if no heartbeat comes; auto: vsock:0:CID+10000"
    groups["output"] += [
        _option("--console ADDR|auto", console),
        _option("--console-log PATH", "write the whole console to this file"),
    ]
    return groups


def _timeout_option(seconds: float) -> Option:
    text = f"exit with 124 after SEC seconds (default: {seconds:g})"
    return _option("--timeout SEC", text, default=seconds)


_API: Final = _option(
    "--api ADDR",
    "HTTP interface of the server (default: $XDG_RUNTIME_DIR/nitrohb/api.sock or"
    " /run/nitrohb/api.sock)",
    type=values.api,
)

_WAIT_OPTIONS: Final = [
    _timeout_option(60.0),
    _option(
        "--max-age SEC",
        "ignore heartbeats older than SEC seconds (default: 60)",
        type=values.age,
        default=60.0,
    ),
    _API,
    _choice("--format", _FORMATS, "output format (default: text)"),
]

_WAIT_EXCLUSIVE: Final = [
    _option("--cid CID", "wait for the enclave with this CID"),
    _option("--address ADDR", "wait for an enclave on this listen address"),
]

_ADDRESSES: Final = """\
addresses:
  vsock:3:9000           AF_VSOCK port 9000 of CID 3
  unix:/run/x.sock       a Unix socket
  hybrid:/tmp/vm4:9000   port 9000 of a VM whose vsock is the socket /tmp/vm4
"""

_ANY_CID: Final = "  vsock::9000            AF_VSOCK port 9000, on every local CID\n"

_TO_LISTEN: Final = f"""\
{_ANY_CID}\
  fd:3, fd:NAME          an inherited socket, by number or systemd name
"""

_REPEAT: Final = "* may be repeated\n"

_EXIT_CODES: Final = "exit codes: 0 done, 1 failed, 2 usage, 128 + n on signal n\n"
_WITH_TIMEOUT: Final = _EXIT_CODES.replace("usage,", "usage, 124 timed out,")


def _command(
    epilog: str,
    groups: Groups | None = None,
    usage: str | None = None,
    exclusive: Sequence[Option] = (),
) -> Command:
    return epilog, groups or {}, usage, exclusive


OPTIONS: Final = {
    "serve": _command(
        "examples:\n"
        "  nitrohb serve                             one enclave, on vsock::9000\n"
        "  nitrohb serve --keep --allow-cid 16       every boot of enclave 16\n"
        "  nitrohb serve -l hybrid:/tmp/vm4.vsock:9000 --format json --timeout 60\n\n"
        f"{_ADDRESSES}{_TO_LISTEN}"
        "  none                   no address until nitrohb listen adds one (needs --api)\n"
        f"{_REPEAT}{_WITH_TIMEOUT}",
        _serve_options(),
        usage="nitrohb serve [options]",
    ),
    "run": _command(
        "examples:\n"
        "  nitrohb run --timeout 60 -- qemu-system-x86_64 -M nitro-enclave,...\n"
        "  nitrohb run --timeout auto --eif x.eif --memory 4096 -- ./launch x.eif\n"
        "  nitrohb run --keep --format json --events events -- ./launch-many\n\n"
        "The command finds the addresses in NITROHB_LISTEN, one per line. On SIGTERM or a\n"
        "time-out, nitrohb ends the command and its descendants. SIGHUP, SIGINT, SIGQUIT,\n"
        "SIGUSR1 and SIGUSR2 go to the command. If it exits with 0, nitrohb still waits\n"
        "for the heartbeat: the VMM might run in the background.\n\n"
        "exit codes: that of CMD, or 128 + n if signal n ended CMD; or\n"
        "  1 failed, 2 usage, 124 no heartbeat in time on an address,\n"
        "  125 without --keep: CMD failed before every ADDR had a heartbeat,\n"
        "  126 CMD cannot be started, 127 CMD does not exist\n\n"
        f"{_ADDRESSES}{_TO_LISTEN}{_REPEAT}",
        _run_options(),
        usage="nitrohb run [options] -- CMD [ARG ...]",
    ),
    "send": _command(
        "examples:\n"
        "  nitrohb send                      from an enclave to its parent, vsock:3:9000\n"
        "  nitrohb send unix:/run/x.sock     to a server on this machine\n\n"
        f"{_ADDRESSES}\n{_WITH_TIMEOUT}",
        {
            "": [
                _option("address ADDR", "server address (default: vsock:3:9000)", nargs="?"),
                _timeout_option(5.0),
            ]
        },
    ),
    "wait": _command(
        "examples:\n"
        "  nitrohb wait --cid 16                         the enclave with that CID\n"
        "  nitrohb wait --address unix:/run/vm4.sock     the enclave that connects there\n\n"
        f"Each heartbeat goes to one wait only.\n\n{_WITH_TIMEOUT}",
        {"": _WAIT_OPTIONS},
        exclusive=_WAIT_EXCLUSIVE,
    ),
    "listen": _command(
        "examples:\n"
        "  nitrohb listen hybrid:/run/vm4/v.sock:9000      before you launch that VM\n"
        "  nitrohb listen vsock::9001 --api unix:api.sock  on another server\n\n"
        "After exit code 0, the address accepts connections. Its path must be absolute.\n"
        "The interface of the server must be on a Unix socket.\n\n"
        f"{_ADDRESSES}{_ANY_CID}\n{_EXIT_CODES}",
        {"": [_option("address ADDR", "address to add"), _API]},
    ),
    "unlisten": _command(
        "example:\n"
        "  nitrohb unlisten hybrid:/run/vm4/v.sock:9000    after that VM has ended\n\n"
        "After exit code 0, the address is closed, each wait for it has failed, and a socket\n"
        "file that nitrohb created is removed. Write the address as serve printed it.\n\n"
        f"{_EXIT_CODES}",
        {"": [_option("address ADDR", "address to remove"), _API]},
    ),
    "demo": _command(f"example:\n  nitrohb demo\n\n{_EXIT_CODES}"),
    "doctor": _command(
        "examples:\n"
        "  nitrohb doctor                        check vsock::9000\n"
        "  nitrohb doctor --for nitro            check it for a real enclave\n"
        "  nitrohb doctor --format json          for a bug report, or a program\n\n"
        "The doctor listens on each address for a moment. It leaves no file behind.\n\n"
        f"{_ADDRESSES}{_TO_LISTEN}\n{_REPEAT}"
        "exit codes: 0 nothing prevents a heartbeat, 1 it cannot arrive, 2 usage\n",
        {
            "": [
                _LISTEN,
                _choice("--for", KINDS, "kind of enclave (default: any)", default=None),
                _max_pending("check that serve can hold N silent connections"),
                _choice("--format", _FORMATS, "output format (default: text)"),
            ],
            "socket files": _SOCKET_FILES,
        },
    ),
    "completion": _command(
        "examples:\n"
        '  eval "$(nitrohb completion bash)"           in ~/.bashrc\n'
        '  eval "$(nitrohb completion zsh)"            in ~/.zshrc, after compinit\n'
        "  nitrohb completion fish | source            in ~/.config/fish/config.fish\n",
        {"": [(["shell"], {"metavar": "SHELL", "choices": SHELLS, "help": ", ".join(SHELLS)})]},
    ),
}
