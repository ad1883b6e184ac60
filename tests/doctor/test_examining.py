# SPDX-License-Identifier: Apache-2.0
"""The examination as a whole: nothing is left behind, and nothing hangs it."""

import errno
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from nitrohb import (
    Address,
    InheritedSocket,
    ListenError,
    PeerClosedError,
    UnixAddress,
    UsageError,
    VsockAddress,
    parse_address,
)
from nitrohb.addresses import CID_ANY, PORT_ANY, NamedSocket
from nitrohb.doctor import examining, observing, selftest
from nitrohb.doctor.examining import examine
from nitrohb.doctor.report import Check, Finding, Report, Verdict
from nitrohb.listeners import Listener, open_listeners
from nitrohb.remedies import NO_AF_VSOCK

NAMES = [
    "listen",
    "python",
    "kernel",
    "seccomp",
    "transport-loopback",
    "transport-guest",
    "transport-host",
    "local-cid",
    "device-vsock",
    "device-vhost-vsock",
    "device-nitro-enclaves",
    "namespace",
    "descriptors",
    "self-test-unix",
    "self-test-loopback",
]


def check_named(name: str, report: Report) -> Check:
    (check,) = (check for check in report.checks if check.name == name)
    return check


async def test_a_unix_socket_can_be_listened_on_anywhere(tmp_path: Path) -> None:
    report = await examine([UnixAddress(str(tmp_path / "s"))], 1)
    assert [check.name for check in report.checks] == NAMES
    assert report.overall is Verdict.OK
    assert report.checks[0].subject == f"unix:{tmp_path}/s"
    assert check_named("self-test-unix", report).finding.verdict is Verdict.OK
    assert os.listdir(tmp_path) == []


async def test_addresses_are_tried_together_as_a_server_has_them(tmp_path: Path) -> None:
    texts = [f"unix:{tmp_path}/a_9000", f"hybrid:{tmp_path}/a:9001", f"unix:{tmp_path}/b/c"]
    report = await examine([parse_address(text) for text in texts], 1)
    listens = report.checks[:3]
    assert [check.subject for check in listens] == texts
    verdicts = [check.finding.verdict for check in listens]
    assert verdicts == [Verdict.OK, Verdict.OK, Verdict.FAILED]
    assert "mkdir -p" in (listens[2].finding.remedy or "")
    assert os.listdir(tmp_path) == []


async def test_addresses_are_tried_before_all_else_and_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server has the descriptors that the other checks take."""
    seen: list[list[str]] = []
    limits = observing.descriptor_limits

    def look() -> tuple[float, float]:
        seen.append(os.listdir(tmp_path))
        return limits()

    def listen(addresses: list[Address]) -> list[Listener]:
        assert seen == []
        return open_listeners(addresses)

    monkeypatch.setattr(observing, "descriptor_limits", look)
    monkeypatch.setattr(examining, "open_listeners", listen)
    report = await examine([UnixAddress(f"{tmp_path}/{number}") for number in range(9)], 1)
    assert report.overall is Verdict.OK
    assert seen == [[]]


async def test_a_lack_of_descriptors_ends_one_check_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be met where the module that knows the remedy is loaded."""

    def lack(*_: object) -> Any:
        raise OSError(errno.EMFILE, "too many")

    monkeypatch.setattr(examining, "open_listeners", lack)
    monkeypatch.setattr(observing, "namespace", lack)
    report = await examine([UnixAddress(str(tmp_path / "s"))], 1)
    assert [check.name for check in report.checks] == NAMES
    reason = "this process has too many open files (EMFILE)"
    for name, verdict, evidence in (
        ("listen", Verdict.FAILED, reason),
        ("namespace", Verdict.SKIPPED, f"cannot be told: {reason}"),
    ):
        finding = check_named(name, report).finding
        assert (finding.verdict, finding.evidence) == (verdict, evidence)
        assert finding.remedy == "Raise its limit (ulimit -n)."
    assert check_named("descriptors", report).finding.verdict is Verdict.OK


async def test_any_other_error_of_the_system_is_a_bug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Any:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(examining, "open_listeners", fail)
    with pytest.raises(OSError, match="broken"):
        await examine([UnixAddress(str(tmp_path / "s"))], 1)


async def test_who_listens_there_is_left_alone(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "s"))
        sock.listen()
        addresses = [UnixAddress(str(tmp_path / name)) for name in ("free", "s")]
        free, taken = (await examine(addresses, 1)).checks[:2]
        assert free.finding.verdict is Verdict.OK
        assert taken.finding.evidence.startswith("another process listens there (EADDRINUSE)")
        assert os.listdir(tmp_path) == ["s"]
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):  # nor has anybody connected
            sock.accept()


async def test_an_inherited_socket() -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        report = await examine([InheritedSocket(sock.fileno())], 1)
        assert "a socket that does not listen (EINVAL)" in report.checks[0].finding.evidence


async def test_a_name_that_was_not_passed_in_is_a_failure_beside_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LISTEN_PID", raising=False)
    address = NamedSocket("heart")
    with pytest.raises(ListenError) as no:
        open_listeners([address])
    report = await examine([address, UnixAddress(str(tmp_path / "s"))], 1)
    missing, free = report.checks[:2]
    assert missing.subject == "fd:heart"
    assert missing.finding == Finding(Verdict.FAILED, no.value.reason, no.value.remedy)
    assert free.finding.verdict is Verdict.OK


async def test_a_socket_that_is_named_by_its_number_and_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_FDNAMES", "heart")
    with pytest.raises(UsageError, match="fd:3 is named twice"):
        await examine([InheritedSocket(3), NamedSocket("heart")], 1)


@pytest.mark.parametrize(
    ("addresses", "message"),
    [
        ([UnixAddress("x")] * 2, "named twice"),
        ([NamedSocket("not passed")] * 2, "named twice"),
        ([VsockAddress(1, 9000), VsockAddress(CID_ANY, 9000)], "exclude each other"),
        ([VsockAddress(1, PORT_ANY)], "leaves the port"),
    ],
)
async def test_what_makes_no_sense_is_refused(addresses: list[Address], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        await examine(addresses, 1)


@pytest.mark.parametrize(
    ("address", "evidence"),
    [
        (VsockAddress(5, 9000), "taken; held by process 7 (x)"),
        (InheritedSocket(3), "taken"),
    ],
    ids=str,
)
async def test_a_port_that_is_taken(
    address: Address, evidence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a kernel that need not have AF_VSOCK; tests/vsock has a real holder."""

    def holder(port: int, cid: int) -> str:
        assert (port, cid) == (9000, 5)
        return "held by process 7 (x)"

    def taken(addresses: list[Address]) -> list[Any]:
        raise ListenError(str(addresses[0]), errno.EADDRINUSE, "taken", "stop it")

    monkeypatch.setattr(examining, "holder_of_port", holder)
    monkeypatch.setattr(examining, "open_listeners", taken)
    finding = (await examine([address], 1)).checks[0].finding
    assert (finding.evidence, finding.remedy) == (evidence, "stop it")


async def test_what_hangs_delays_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = threading.Event()

    def hang(*_: object) -> Any:
        end.wait()

    monkeypatch.setattr(examining, "_DEADLINE", 0.5)
    monkeypatch.setattr(observing, "namespace", hang)
    monkeypatch.setattr(selftest, "beat_over_unix", hang)
    try:
        report = await examine([UnixAddress(str(tmp_path / "s"))], 1)
    finally:
        end.set()
    evidence = "did not come to an end within 0.5 s"
    for name, verdict in (
        ("namespace", Verdict.SKIPPED),
        ("self-test-unix", Verdict.FAILED),
    ):
        finding = check_named(name, report).finding
        assert (finding.verdict, finding.evidence) == (verdict, evidence)
    assert check_named("kernel", report).finding.evidence != evidence
    assert report.checks[0].finding.verdict is Verdict.OK


class Threads:
    """A limit of them: so many can be started, and then there is an error."""

    def __init__(self, number: int, message: str = "can't start new thread") -> None:
        self.left = number
        self.message = message

    def __call__(self, look: Callable[[], None], *args: object) -> None:
        if not self.left:
            raise RuntimeError(self.message)
        self.left -= 1
        start_thread(look, *args)


start_thread: Callable[..., None] = trio.lowlevel.start_thread_soon


@pytest.mark.parametrize("number", [0, 1, 3])
async def test_addresses_are_tried_where_no_thread_can_be_started(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio._threads.start_thread_soon", Threads(number))
    addresses = [UnixAddress(str(tmp_path / name)) for name in ("s", "missing/s")]
    report = await examine(addresses, 1)
    assert [check.name for check in report.checks] == ["listen", *NAMES]
    free, missing, *others = (check.finding for check in report.checks)
    assert free.verdict is Verdict.OK
    assert "(ENOENT)" in missing.evidence
    for other in others:
        assert other.verdict is Verdict.WARNING
        assert other.evidence == "cannot be told: no thread can be started"
        assert "ulimit -u" in (other.remedy or "")
        assert "--pids-limit" in (other.remedy or "")
    assert os.listdir(tmp_path) == []


async def test_any_other_error_of_a_thread_is_a_bug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio._threads.start_thread_soon", Threads(0, "something else"))
    with pytest.raises(RuntimeError, match="something else"):
        await examine([UnixAddress(str(tmp_path / "s"))], 1)


async def test_a_cancellation_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scope = trio.CancelScope()
    look = observing.descriptor_limits

    def cancel() -> tuple[float, float]:
        trio.from_thread.run_sync(scope.cancel)
        return look()

    monkeypatch.setattr(observing, "descriptor_limits", cancel)
    with scope:
        await examine([UnixAddress(str(tmp_path / "s"))], 1)
    assert scope.cancelled_caught
    assert os.listdir(tmp_path) == []


def test_the_self_test_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert isinstance(selftest.beat_over_unix(), float)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("directory", ["missing", 100 * "x"])
def test_a_self_test_without_a_place(
    directory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / (100 * "x")).mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / directory))
    assert isinstance(selftest.beat_over_unix(), OSError)
    assert os.listdir(tmp_path) == [100 * "x"]
    assert os.listdir(tmp_path / (100 * "x")) == []


async def closed(*_: object, **__: object) -> float:
    raise PeerClosedError("it was closed\nand more")


async def out_of_descriptors(*_: object, **__: object) -> float:
    raise OSError(errno.EMFILE, "too many")


async def silent(*_: object, **__: object) -> float:
    await trio.sleep_forever()
    raise AssertionError


@pytest.mark.parametrize(
    ("send", "problem"),
    [
        (closed, "it was closed"),
        (silent, "it took more than 0.1 s"),
    ],
)
def test_a_heartbeat_that_is_not_answered(
    send: Callable[..., Any], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selftest, "send_heartbeat", send)
    monkeypatch.setattr(selftest, "_PATIENCE", 0.1)
    assert selftest.beat_over_unix() == problem


def test_a_lack_of_descriptors_is_not_a_heartbeat_that_is_not_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(selftest, "send_heartbeat", out_of_descriptors)
    problem = selftest.beat_over_unix()
    assert isinstance(problem, OSError)
    assert problem.errno == errno.EMFILE


@pytest.mark.parametrize(("family", "number"), [(None, NO_AF_VSOCK), (9999, errno.EAFNOSUPPORT)])
def test_no_loopback_without_af_vsock(
    family: int | None, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selftest, "AF_VSOCK", family)
    seen = selftest.beat_over_loopback()
    assert isinstance(seen, OSError)
    assert seen.errno == number


def test_the_loopback_is_connected_to_only_while_we_are_bound_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a socket that is none of AF_VSOCK; tests/vsock has the real one."""
    bound: list[tuple[int, int]] = []

    class Socket:
        def __init__(self, *_: int) -> None:
            pass

        def __enter__(self) -> "Socket":
            return self

        def __exit__(self, *_: object) -> None:
            bound.clear()

        def bind(self, address: tuple[int, int]) -> None:
            bound.append(address)

        def listen(self) -> None:
            assert bound == [(1, PORT_ANY)]

        def getsockname(self) -> tuple[int, int]:
            return (1, 1234)

    def run(listen: Socket, address: VsockAddress) -> float:
        assert bound
        assert address == VsockAddress(1, 1234)
        return 0.5

    monkeypatch.setattr(selftest, "AF_VSOCK", 40)
    monkeypatch.setattr(socket, "socket", Socket)
    monkeypatch.setattr(selftest, "_run", run)
    assert selftest.beat_over_loopback() == 0.5
