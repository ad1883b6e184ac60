# SPDX-License-Identifier: Apache-2.0
"""nitrohb answers the boot heartbeat of AWS Nitro Enclaves, real or emulated.

``serve_heartbeat()`` is for the parent, ``send_heartbeat()`` for the enclave. A public name is
loaded when it is first used. So ``import nitrohb`` is fast, and the console script listens before
it loads the rest.
"""

# The console script listens before it loads typing: see cli/__init__.py.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from .addresses import (
        CID_ANY,
        Address,
        HybridAddress,
        InheritedSocket,
        NamedDescriptor,
        UnixAddress,
        VsockAddress,
        parse_address,
    )
    from .client import answer_heartbeat, send_heartbeat
    from .console import Console
    from .errors import (
        AddressError,
        ConnectError,
        HeartbeatTimeoutError,
        ListenError,
        NitrohbError,
        NoHeartbeatError,
        PeerClosedError,
        PeerError,
        UnusableAddressError,
        UsageError,
        WrongByteError,
    )
    from .events import (
        Connected,
        ConnectionEvent,
        Disconnected,
        Done,
        Event,
        Evicted,
        Heartbeat,
        Listening,
        Lost,
        Rejected,
        RejectReason,
        UnixPeer,
        Unlistened,
    )
    from .handle import HeartbeatServer
    from .protocol import HEARTBEAT, HEARTBEAT_PORT, PARENT_CID
    from .server import serve_heartbeat
    from .sockets.activation import inherited_sockets
    from .sockets.listener import Listener
    from .sockets.opening import ListenTarget, open_listeners
    from .thread import ThreadServer, serve_in_thread
    from .timeouts import boot_timeout

__version__ = "0.1.0"

__all__ = [
    "serve_heartbeat", "HeartbeatServer", "serve_in_thread", "ThreadServer",
    "ListenTarget", "Listener", "open_listeners", "inherited_sockets",
    "send_heartbeat", "answer_heartbeat", "boot_timeout", "Console",
    "Address", "VsockAddress", "UnixAddress", "HybridAddress", "InheritedSocket", "NamedDescriptor",
    "parse_address", "CID_ANY", "HEARTBEAT", "HEARTBEAT_PORT", "PARENT_CID",
    "Event", "ConnectionEvent", "Listening", "Connected", "Heartbeat", "Rejected", "RejectReason",
    "Disconnected", "Evicted", "Done", "Unlistened", "Lost", "UnixPeer",
    "NitrohbError", "UsageError", "AddressError", "UnusableAddressError", "ListenError",
    "ConnectError", "PeerError", "PeerClosedError", "WrongByteError", "HeartbeatTimeoutError",
    "NoHeartbeatError",
]  # fmt: skip

_MODULES = {  # of all public names except the events
    "server": "serve_heartbeat",
    "handle": "HeartbeatServer",
    "sockets.listener": "Listener",
    "sockets.opening": "ListenTarget open_listeners",
    "sockets.activation": "inherited_sockets",
    "thread": "serve_in_thread ThreadServer",
    "client": "send_heartbeat answer_heartbeat",
    "timeouts": "boot_timeout",
    "console": "Console",
    "addresses": "Address VsockAddress UnixAddress HybridAddress InheritedSocket NamedDescriptor"
    " parse_address CID_ANY",
    "protocol": "HEARTBEAT HEARTBEAT_PORT PARENT_CID",
    "errors": " ".join(name for name in __all__ if name.endswith("Error")),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # the console script does not need it

    value: object = getattr(import_module(f".{_HOME.get(name, 'events')}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
