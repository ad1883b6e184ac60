# SPDX-License-Identifier: Apache-2.0
"""``nitrohb serve``: listen, then load trio and answer heartbeats."""

from __future__ import annotations

import os
import resource
from contextlib import ExitStack, contextmanager, suppress

from ..remedies import LOCAL_ADVICE
from ..sockets.opening import check_distinct, open_listeners, require_allowable, where_bound
from .output import INFO, WARNING, Stream

_OTHER_FILES = 576  # enough for all connections of the HTTP interface

# This module is loaded before the script listens: see cli/__init__.py.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator

    from ..sockets.listener import Listener
    from .output import Output
    from .settings import AnswerSettings, ServeSettings
    from .signals import Signals


def serve(settings: ServeSettings, output: Output, signals: Signals) -> int:
    """Listen, answer and report heartbeats; return the exit code."""
    answer = settings.answer
    output.level = answer.level
    with listening(answer, output) as listeners, ExitStack() as closing:
        api = None
        if settings.api is not None:
            from .serve_api import open_api  # rarely needed

            api = open_api(settings.api, [listener.address for listener in listeners], closing)
            if not listeners:
                text = "nitrohb: no listen address yet\nAdd one: nitrohb listen ADDR --api"
                output.print_err(f"{text} {settings.api.address}", level=INFO)
        tell_ready(answer.ready_fd, output)
        _raise_descriptor_limit(answer.max_pending + _OTHER_FILES)
        from .answer import answer_and_report  # loads trio

        return signals.run(lambda: answer_and_report(answer, listeners, api, output))


def _raise_descriptor_limit(wanted: int) -> None:
    """Raise the soft limit, which is often 1024. It protects programs that use select(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < wanted:  # RLIM_INFINITY is negative
        most = min(wanted, hard) if hard >= 0 else wanted
        with suppress(OSError, ValueError):  # a filter of system calls can forbid it
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


@contextmanager
def listening(settings: AnswerSettings, output: Output) -> Generator[list[Listener]]:
    """Listen on all addresses while the block runs, then remove all socket files.

    Print a warning for each address that other network namespaces cannot reach.

    Raises:
        UsageError: The settings or the variables of socket activation make no sense.
        ListenError: nitrohb cannot listen on an address.
    """
    if settings.warning:
        output.print_err(f"nitrohb: {settings.warning}", level=WARNING)
    require_allowable(settings.listen, settings.allow_cids, settings.allow_uids)
    with ExitStack() as closing:
        listeners = open_listeners(
            settings.listen, socket_mode=settings.socket_mode, socket_group=settings.socket_group
        )
        for listener in listeners:
            closing.callback(listener.close)
            listener.address = where_bound(listener)
            if listener.is_isolated():
                reason, remedy = LOCAL_ADVICE
                output.print_err(f"nitrohb: {listener.address}: {reason}\n{remedy}", level=WARNING)
        check_distinct(listeners)  # two fd: addresses can be the same socket
        if settings.events is not None:
            output.open_events(settings.events)
        yield listeners


def tell_ready(fd: int | None, output: Output) -> None:
    """Write a newline to a descriptor and close it: s6 then knows that nitrohb is ready.

    If the write fails, the descriptor stays open: it can be a socket on which nitrohb listens.
    """
    if fd is None:
        return
    with open(fd, "w", closefd=False) as file:
        stream = Stream(file)
        problem = stream.write("\n") or ("nobody reads it" if stream.has_queued else "")
    if problem:
        text = f"nitrohb: cannot write to --ready-fd {fd}: {problem}"
        output.print_err(f"{text}\nLet a process read descriptor {fd}.", level=WARNING)
    else:
        os.close(fd)
