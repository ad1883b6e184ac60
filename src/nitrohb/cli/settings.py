# SPDX-License-Identifier: Apache-2.0
"""The settings of each command: typed, validated and frozen.

Only this module and ``parser`` use the Namespace of argparse.
"""

from __future__ import annotations

import os

from ..addresses import CID_ANY, HybridAddress, UnixAddress, VsockAddress
from ..errors import UsageError
from ..protocol import HEARTBEAT_PORT, PARENT_CID
from ..sockets.activation import inherited_sockets
from ..sockets.opening import NOWHERE
from . import values
from .output import LEVELS, NOTHING

# This module is loaded before the script listens: see cli/__init__.py.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Sequence
    from typing import Any, Final, NoReturn, dataclass_transform

    from ..addresses import Address
    from ..api.address import TcpAddress
else:

    def dataclass_transform(**_):
        """Replace the function of typing, a module that takes 3 ms to load; dataclasses takes 9."""
        return lambda decorated: decorated


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Settings:
    """The base of all settings: type checkers see a frozen dataclass, but it loads faster.

    The command ``NAME`` is the function ``NAME`` in the module ``cli.NAME``. With
    ``needs_output``, a command fails if its output is lost.
    """

    needs_output = False

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is frozen")


class AnswerSettings(Settings):
    """How to answer and report heartbeats.

    Attributes:
        warning: A warning to print before the listen; empty for none.
        events: The path or descriptor for events; None for stdout, or stderr under ``run``.
        ready_fd: The descriptor that gets a newline when all addresses listen, or None.
        event_level: The least serious level of events to print: see ``output``.
        level: The least serious level of other messages to print.
    """

    listen: Sequence[Address]
    keep: bool
    allow_cids: Sequence[int] | None
    allow_uids: Sequence[int] | None
    any_byte: bool
    max_pending: int
    handshake_timeout: float
    timeout: float
    warning: str
    socket_mode: int
    socket_group: int | None
    events: str | int | None
    ready_fd: int | None
    event_level: int
    level: int


class UnixApiSettings(Settings):
    """The HTTP interface on a Unix socket."""

    address: UnixAddress
    mode: int
    group: int | None


class TcpApiSettings(Settings):
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
    api: UnixApiSettings | TcpApiSettings | None


class RunSettings(Settings):
    """``nitrohb run``.

    Attributes:
        argv: The command to run, and its arguments.
        kill_after: Seconds from SIGTERM to SIGKILL.
        console: The address of the guest console; ``"auto"`` to derive it from the CID; None to
            read no console.
        console_log: The file that gets the whole console, or None.
    """

    command = "run"

    answer: AnswerSettings
    argv: Sequence[str]
    kill_after: float
    console: Address | str | None
    console_log: str | None


class SendSettings(Settings):
    """``nitrohb send``."""

    command = "send"

    address: Address
    timeout: float


class WaitSettings(Settings):
    """``nitrohb wait``.

    Attributes:
        target: The CID of the enclave, or the listen address on which it connects.
        api: The address of the HTTP interface of the server.
        timeout: Seconds to wait.
        max_age: The age in seconds above which heartbeats are ignored.
        format: ``"text"`` or ``"json"``.
    """

    command = "wait"

    target: int | Address
    api: UnixAddress | TcpAddress
    timeout: float
    max_age: float
    format: str


class ListenSettings(Settings):
    """``nitrohb listen``: an address, and the server to add it to."""

    command = "listen"

    address: Address
    api: UnixAddress | TcpAddress


class UnlistenSettings(ListenSettings):
    """``nitrohb unlisten``."""

    command = "unlisten"


class DemoSettings(Settings):
    """``nitrohb demo``."""

    command = "demo"
    needs_output = True


class DoctorSettings(Settings):
    """``nitrohb doctor``."""

    command = "doctor"
    needs_output = True

    listen: Sequence[Address]
    kind: str | None
    max_pending: int
    socket_mode: int
    socket_group: int | None
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
    | ListenSettings
    | UnlistenSettings
    | DemoSettings
    | DoctorSettings
    | CompletionSettings
)


# From the command line.

_EIF_MEMORY_FACTOR: Final = 4  # source: the memory check of nitro-cli
_WITHOUT_CID: Final = (UnixAddress, HybridAddress)
_SYSTEM_API: Final = UnixAddress("/run/nitrohb/api.sock")


def _answer(args: Namespace) -> AnswerSettings:
    level, (timeout, warning) = LEVELS[args.log_level], _timeout(args)
    events, ready_fd = args.events, args.ready_fd
    if events is not None and events.startswith("fd:"):
        events = values.descriptor("--events", events[3:])
    if ready_fd is not None:
        ready_fd = values.descriptor("--ready-fd", ready_fd)
        if ready_fd == events:
            raise UsageError(
                f"--events and --ready-fd cannot share descriptor {ready_fd}, because --ready-fd"
                " closes it\nName two descriptors."
            )
    return AnswerSettings(
        listen=_listen(args),
        keep=args.keep,
        allow_cids=args.allow_cids,
        allow_uids=args.allow_uids,
        any_byte=args.any_byte,
        max_pending=args.max_pending,
        handshake_timeout=args.handshake_timeout,
        timeout=timeout,
        warning=warning,
        socket_mode=args.socket_mode,
        socket_group=args.socket_group,
        events=events,
        ready_fd=ready_fd,
        event_level=NOTHING if args.quiet else level,
        level=level,
    )


def _listen(args: Namespace) -> Sequence[Address]:
    listen: Sequence[Any] = args.listen or ()
    if NOWHERE in listen:
        if len(listen) > 1:
            raise UsageError("-l none contradicts the other -l\nRemove it, or all others.")
        api = getattr(args, "api", None)
        if api is not True and not isinstance(api, UnixAddress):
            raise UsageError(
                "-l none: nitrohb would have no address, now or later\n"
                "Name an address, or use serve --keep --api unix:PATH."
            )
        return ()
    return listen or inherited_sockets() or [VsockAddress(CID_ANY, HEARTBEAT_PORT)]


def _timeout(args: Namespace) -> tuple[float, str]:
    """The time limit, and a warning if the memory is too small."""
    if args.timeout != "auto":
        if args.eif is not None or args.memory is not None:
            raise UsageError(
                "--eif and --memory have no effect without --timeout auto\nAdd --timeout auto."
            )
        return float(args.timeout), ""
    if args.eif is None or args.memory is None:
        raise UsageError(
            "--timeout auto depends on the image and the memory\nAdd --eif PATH and --memory MIB."
        )
    from ..timeouts import boot_timeout  # rarely needed

    size = values.image_size(args.eif)
    need = -(-size * _EIF_MEMORY_FACTOR >> 20)  # rounded up
    timeout = boot_timeout(eif_bytes=size, memory_mib=args.memory)
    if args.memory >= need:
        return timeout, ""
    why = f"--memory {args.memory} is too small for this image: nitro-cli requires {need} MiB"
    return timeout, f"{why}\nGive the enclave at least {need} MiB."


def _api(args: Namespace) -> UnixApiSettings | TcpApiSettings | None:
    address = default_api() if args.api is True else args.api
    has_file_options = (args.api_mode, args.api_group) != (None, None)
    if address is None:
        if has_file_options or args.api_allow_remote or args.api_host:
            raise UsageError(
                "options that begin with --api- have no effect without --api\nAdd --api."
            )
        return None
    if not args.keep:
        raise UsageError(
            "--api without --keep: the server would end before a client can claim a heartbeat\n"
            "Add --keep."
        )
    if isinstance(address, UnixAddress):
        if args.api_host or args.api_allow_remote:
            raise UsageError(
                f"--api-host and --api-allow-remote are for TCP, not for {address}\nRemove them."
            )
        mode = 0o600 if args.api_mode is None else args.api_mode
        return UnixApiSettings(address=address, mode=mode, group=args.api_group)
    if has_file_options:
        raise UsageError(
            f"--api-mode and --api-group are for a Unix socket, not for {address}\nRemove them."
        )
    if not (address.ip.is_loopback or args.api_allow_remote):
        raise UsageError(
            f"--api {address}: other machines can reach this address, and there are no passwords\n"
            "Use 127.0.0.1 or a Unix socket, or add --api-allow-remote."
        )
    return TcpApiSettings(address=address, hosts=frozenset(name.lower() for name in args.api_host))


def default_api() -> UnixAddress:
    """The default address of ``serve --api``. Each user has another one."""
    directory = os.environ.get("XDG_RUNTIME_DIR", "") if os.geteuid() else ""
    return UnixAddress(f"{directory}/nitrohb/api.sock") if os.path.isabs(directory) else _SYSTEM_API


def _running(args: Namespace) -> UnixAddress | TcpAddress:
    """The interface of a running server: that of this user, or else that of the system."""
    if args.api is not None:
        return args.api  # type: ignore[no-any-return]
    own = default_api()
    is_ours = os.path.exists(own.path) or not os.path.exists(_SYSTEM_API.path)
    return own if is_ours else _SYSTEM_API


def _run(args: Namespace) -> RunSettings:
    answer = _answer(args)
    if args.misplaced or not args.argv:
        raise UsageError(
            "run needs a command after --\nAdd it, as in: nitrohb run [options] -- CMD ARG..."
        )
    listen: Sequence[Address] = args.listen or ()
    has_no_cids = listen and all(isinstance(each, _WITHOUT_CID) for each in listen)
    if args.console == "auto" and has_no_cids:
        raise UsageError(
            "--console auto needs a vsock address, where each enclave has a CID\n"
            "Name the console, for example: --console unix:serial.sock"
        )
    if args.console_log is not None and args.console is None:
        raise UsageError(
            "--console-log has no effect without --console\n"
            "Name the console, for example: --console unix:serial.sock"
        )
    return RunSettings(
        answer=answer,
        argv=args.argv,
        kill_after=args.kill_after,
        console=args.console,
        console_log=args.console_log,
    )


def make_settings(args: Namespace) -> CommandSettings:
    """Make the settings of a command from what argparse has read.

    Raises:
        UsageError: The options or a variable of the environment make no sense.
    """
    return _MAKERS[args.command](args)


_MAKERS: Final[dict[str, Callable[[Namespace], CommandSettings]]] = {
    "serve": lambda args: ServeSettings(answer=_answer(args), api=_api(args)),
    "run": _run,
    "send": lambda args: SendSettings(
        address=args.address or VsockAddress(PARENT_CID, HEARTBEAT_PORT), timeout=args.timeout
    ),
    "wait": lambda args: WaitSettings(
        target=args.address if args.cid is None else args.cid,
        api=_running(args),
        timeout=args.timeout,
        max_age=args.max_age,
        format=args.format,
    ),
    "listen": lambda args: ListenSettings(address=args.address, api=_running(args)),
    "unlisten": lambda args: UnlistenSettings(address=args.address, api=_running(args)),
    "demo": lambda _: DemoSettings(),
    "doctor": lambda args: DoctorSettings(
        listen=_listen(args),
        kind=getattr(args, "for"),
        max_pending=args.max_pending,
        socket_mode=args.socket_mode,
        socket_group=args.socket_group,
        format=args.format,
    ),
    "completion": lambda args: CompletionSettings(shell=args.shell),
}
