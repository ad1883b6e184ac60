# SPDX-License-Identifier: Apache-2.0
"""What each command was asked to do: typed, validated and frozen.

:mod:`.parser` makes these from the command line. Nothing behind it knows argparse.
"""

from __future__ import annotations

# This module is loaded before the script listens: see cli/__init__.py.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, NoReturn, dataclass_transform

    from ..addresses import Address, UnixAddress
    from ..api.address import TcpAddress
else:

    def dataclass_transform(**_):
        """Stand in for the decorator: typing takes 3 ms to load, and dataclasses 9 ms."""
        return lambda decorated: decorated


__all__ = [
    "AnswerSettings",
    "CommandSettings",
    "CompletionSettings",
    "DemoSettings",
    "DoctorSettings",
    "RunSettings",
    "SendSettings",
    "ServeSettings",
    "TcpApi",
    "UnixApi",
    "WaitSettings",
]


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Settings:
    """The base of all settings: a frozen dataclass to type checkers, and cheap to load.

    The settings of a command also have its name in ``command``, which is that of its module in this
    package and of its function there, and in ``needs_output`` whether its output is all it is for.
    """

    needs_output = False

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is frozen")


class AnswerSettings(Settings):
    """How heartbeats are answered and reported.

    Attributes:
        listen: The listen addresses.
        keep: Go on after a heartbeat.
        allow_cids: The CIDs to answer; None answers all.
        any_byte: Echo any first byte.
        max_pending: How many connections may be silent at a time.
        handshake_timeout: Seconds that a connection may stay silent.
        timeout: Seconds to wait for the heartbeats; infinite for no limit.
        socket_mode: Permission bits of the socket files.
        socket_group: Numeric group of the socket files; None leaves it alone.
        format: How events are printed, ``"text"`` or ``"json"``.
        event_level: The highest level of an event that is printed; see :mod:`.output`.
        level: The highest level of anything else that is printed.
    """

    listen: Sequence[Address]
    keep: bool
    allow_cids: Sequence[int] | None
    any_byte: bool
    max_pending: int
    handshake_timeout: float
    timeout: float
    socket_mode: int
    socket_group: int | None
    format: str
    event_level: int
    level: int


class UnixApi(Settings):
    """The HTTP interface on a Unix socket."""

    address: UnixAddress
    mode: int
    group: int | None


class TcpApi(Settings):
    """The HTTP interface on a TCP address.

    Attributes:
        hosts: More host names that clients may use, in lower case.
    """

    address: TcpAddress
    hosts: frozenset[str]


class ServeSettings(Settings):
    """``nitrohb serve``."""

    command = "serve"

    answer: AnswerSettings
    api: UnixApi | TcpApi | None


class RunSettings(Settings):
    """``nitrohb run``.

    Attributes:
        argv: The command to run, and its arguments.
        kill_after: Seconds from SIGTERM to SIGKILL.
    """

    command = "run"

    answer: AnswerSettings
    argv: Sequence[str]
    kill_after: float


class SendSettings(Settings):
    """``nitrohb send``."""

    command = "send"

    address: Address
    timeout: float


class WaitSettings(Settings):
    """``nitrohb wait``.

    Attributes:
        enclave: The CID of the enclave, or the listen address on which it connects.
        api: The address of the server's HTTP interface.
        timeout: Seconds to wait.
        max_age: How many seconds ago the heartbeat may have arrived.
        format: How the heartbeat is printed, ``"text"`` or ``"json"``.
    """

    command = "wait"

    enclave: int | Address
    api: UnixAddress | TcpAddress
    timeout: float
    max_age: float
    format: str


class DemoSettings(Settings):
    """``nitrohb demo``."""

    command = "demo"
    needs_output = True


class DoctorSettings(Settings):
    """``nitrohb doctor``."""

    command = "doctor"
    needs_output = True

    listen: Sequence[Address]
    max_pending: int
    format: str


class CompletionSettings(Settings):
    """``nitrohb completion``."""

    command = "completion"
    needs_output = True

    shell: str


CommandSettings = (
    ServeSettings
    | RunSettings
    | SendSettings
    | WaitSettings
    | DemoSettings
    | DoctorSettings
    | CompletionSettings
)
