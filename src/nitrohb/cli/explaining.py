# SPDX-License-Identifier: Apache-2.0
"""Why there was no heartbeat, as far as that can be known from here."""

import shlex
import signal

from ..addresses import (
    CID_ANY,
    Address,
    HybridAddress,
    InheritedSocket,
    NamedSocket,
    UnixAddress,
    VsockAddress,
)
from ..protocol import PARENT_CID
from .console import Console
from .report import Reporter

__all__ = ["explain_end", "explain_timeout"]


def explain_timeout(reporter: Reporter, timeout: float, console: Console) -> None:
    """Say that the time is up, and what came on each address instead of a heartbeat."""
    unheard = list(reporter.unheard())
    if not unheard:  # only with --keep
        console.say(f"nitrohb: the time is up, after {timeout:g} s")
    for address, seen in unheard:
        console.say(_explain(address, seen, f"within {timeout:g} s"))
        if not seen:
            how = _how_to_try(address)
            console.say(f"Does the enclave run, and do its connections arrive here?{how}")
            if how:
                console.say(f"To check this machine: nitrohb doctor -l {_quoted(address)}")


def explain_end(reporter: Reporter, status: int, console: Console) -> None:
    """Say that a command has ended too early, and what came on each address until then."""
    console.say(f"nitrohb: the command ended with status {_status(status)} before its heartbeat")
    for address, seen in reporter.unheard():
        console.say(_explain(address, seen, "until then"))


def _explain(address: Address, seen: str, when: str) -> str:
    what = f"of the connections that came, {seen}" if seen else "nobody connected"
    return f"nitrohb: no heartbeat on {address} {when}: {what}"


def _how_to_try(address: Address) -> str:
    match address:
        case VsockAddress(cid, port):
            parent = VsockAddress(PARENT_CID if cid == CID_ANY else cid, port)
            return f" To try it out, inside the enclave: nitrohb send {parent}"
        case UnixAddress() | HybridAddress():
            return f" To try this side, on this machine: nitrohb send {_quoted(address)}"
        case InheritedSocket() | NamedSocket():
            return ""  # whoever passed it in knows where it listens


def _quoted(address: Address) -> str:
    return shlex.quote(str(address))


def _status(status: int) -> str:
    """An exit status, with the name of the signal that it may stand for."""
    try:
        return f"{status} ({signal.Signals(status - 128).name})"
    except ValueError:
        return str(status)
