# SPDX-License-Identifier: Apache-2.0
"""The servers: the installed nitrohb, and what people could use instead."""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .processes import BenchError

_HERE = os.path.dirname(os.path.abspath(__file__))
_CC = ("cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o")
_CC_DEADLINE = 60.0  # seconds

# Options for the measurement that holds thousands of silent connections open. build() drops those
# that the installed nitrohb does not have.
_PATIENT = (("--handshake-timeout", "600"), ("--max-pending", "100000"))


@dataclass(frozen=True)
class Tools:
    """The programs that a run needs.

    Attributes:
        epoll: The C server.
        load: The C load client.
        nitrohb: The installed console script.
        patient: The console script's options for the measurement with silent connections.
    """

    epoll: str
    load: str
    nitrohb: str
    patient: tuple[str, ...]


@dataclass(frozen=True)
class Peer:
    """A server to measure.

    Attributes:
        key: Its name in the results.
        label: Its name for people.
        argv: Returns its command line, from the tools and the path of its socket or ``vsock:PORT``.
        needs: A program that it needs.
        held: The maximum number of silent connections to hold: 0 if one blocks all others.
        client_closes: The client must close the connection, because the server does not.
        prints: It prints events, which must be read.
    """

    key: str
    label: str
    argv: Callable[[Tools, str], Sequence[str]]
    needs: str | None = None
    held: int = 1_000_000
    client_closes: bool = False
    prints: bool = False

    def command(self, tools: Tools, where: str, *, patient: bool = False) -> list[str]:
        """Return its command line."""
        more = tools.patient if patient and self.key.startswith("nitrohb") else ()
        return [*self.argv(tools, where), *more]


def _python(name: str) -> Callable[[Tools, str], Sequence[str]]:
    program = os.path.join(_HERE, "peers", f"{name}.py")
    return lambda tools, where: (sys.executable, program, where)


def _serve(*options: str) -> Callable[[Tools, str], Sequence[str]]:
    def argv(tools: Tools, where: str) -> Sequence[str]:
        port = where.removeprefix("vsock:")
        listen = f"unix:{where}" if port == where else f"vsock::{port}"
        return (tools.nitrohb, "serve", "--keep", *options, "--listen", listen)

    return argv


def _socat(tools: Tools, where: str) -> Sequence[str]:
    port = where.removeprefix("vsock:")
    listen = f"UNIX-LISTEN:{where}" if port == where else f"VSOCK-LISTEN:{port},backlog=64"
    return ("socat", f"{listen},fork", "EXEC:cat")


C = Peer("c", "C, epoll", lambda tools, where: (tools.epoll, where))
NITROHB = Peer("nitrohb", "nitrohb serve --keep --quiet", _serve("--quiet"))
JSON = Peer("nitrohb-json", "nitrohb … --format json", _serve("--format", "json"), prints=True)
TEXT = Peer("nitrohb-text", "nitrohb … --format text", _serve("--format", "text"), prints=True)
BLOCKING = Peer("blocking", "Python, blocking", _python("blocking"), held=0)
TRIO = Peer("trio", "trio.serve_listeners", _python("trio_listeners"))
ASYNCIO = Peer("asyncio", "asyncio.start_unix_server", _python("asyncio_streams"))

PEERS = (
    C,
    Peer("c-eager", "C, reads before epoll", lambda tools, where: (tools.epoll, where, "eager")),
    NITROHB,
    JSON,
    TEXT,
    BLOCKING,
    TRIO,
    ASYNCIO,
    Peer(
        "socat",
        "socat …,fork EXEC:cat",
        _socat,
        needs="socat",
        held=100,  # two processes per connection
        client_closes=True,
    ),
)
"""In the order of the tables."""


def build(directory: str) -> Tools:
    """Compile the C programs into a directory, and find the console script."""
    nitrohb = _find_script()
    helped = _run(nitrohb, "serve", "--help")
    patient = [word for option in _PATIENT if option[0] in helped for word in option]
    return Tools(_compile("epoll", directory), _compile("load", directory), nitrohb, (*patient,))


def _find_script() -> str:
    """Return the path of the console script beside this interpreter."""
    script = shutil.which("nitrohb", path=sysconfig.get_path("scripts"))
    if script is None:
        raise BenchError("nitrohb is not installed beside this Python\nInstall it: pip install .")
    return script


def _compile(name: str, directory: str) -> str:
    if shutil.which(_CC[0]) is None:
        raise BenchError("no C compiler\nInstall gcc and libc6-dev.")
    program = os.path.join(directory, name)
    _run(*_CC, program, os.path.join(_HERE, f"{name}.c"))
    return program


def _run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=_CC_DEADLINE)
    if done.returncode:
        raise BenchError(f"{' '.join(argv)} failed:\n{done.stderr}")
    return done.stdout
