# SPDX-License-Identifier: Apache-2.0
"""The whole examination: it leaves nothing behind, and nothing blocks it."""

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
    UnixAddress,
    UsageError,
    VsockAddress,
    parse_address,
)
from nitrohb.addresses import CID_ANY, PORT_ANY, NamedDescriptor
from nitrohb.doctor import examine as examining
from nitrohb.doctor import probes, selftest
from nitrohb.doctor.examine import examine
from nitrohb.doctor.verdicts import CheckResult, Finding, Verdict, overall
from nitrohb.sockets.listener import Listener
from nitrohb.sockets.opening import open_listeners

NAMES = [
    "listen",
    "reach",
    "device-nitro-enclaves",
    "descriptors",
    "self-test-unix",
]


@pytest.fixture
def free(tmp_path: Path) -> list[Address]:
    """One address that can be listened on."""
    return [UnixAddress(str(tmp_path / "s"))]


def failing(error: Exception) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> Any:
        raise error

    return fail


def finding(name: str, checks: list[CheckResult]) -> Finding:
    (check,) = (check for check in checks if check.name == name)
    return check.finding


async def test_addresses_are_tried_together_as_a_server_has_them(tmp_path: Path) -> None:
    texts = [f"unix:{tmp_path}/a_9000", f"hybrid:{tmp_path}/a:9001", f"unix:{tmp_path}/b/c"]
    checks = await examine([parse_address(text) for text in texts], 1)
    assert [check.name for check in checks] == ["listen", "listen", *NAMES[:2], *NAMES[1:]]
    listens = checks[:3]
    assert [check.subject for check in listens] == texts
    verdicts = [check.finding.verdict for check in listens]
    assert verdicts == [Verdict.OK, Verdict.OK, Verdict.FAILED]
    assert "mkdir -p" in (listens[2].finding.remedy or "")
    assert finding("self-test-unix", checks).verdict is Verdict.OK
    assert os.listdir(tmp_path) == []


async def test_addresses_are_tried_first_and_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other checks need descriptors that a server would have."""
    seen: list[list[str]] = []
    limit = probes.descriptor_limit

    def look() -> float:
        seen.append(os.listdir(tmp_path))
        return limit()

    def listen(addresses: list[Address], **options: Any) -> list[Listener]:
        assert seen == []
        return open_listeners(addresses, **options)

    monkeypatch.setattr(probes, "descriptor_limit", look)
    monkeypatch.setattr(examining, "open_listeners", listen)
    checks = await examine([UnixAddress(f"{tmp_path}/{number}") for number in range(9)], 1)
    assert overall(checks) is Verdict.OK
    assert seen == [[]]


async def test_a_lack_of_descriptors_ends_one_check_alone(
    free: list[Address], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can occur while the module with the remedies is imported."""
    lack = failing(OSError(errno.EMFILE, "too many"))
    monkeypatch.setattr(examining, "open_listeners", lack)
    monkeypatch.setattr(probes, "enclaves", lack)
    checks = await examine(free, 1)
    assert [check.name for check in checks] == ["listen", *NAMES[2:]]
    for name, verdict in (("listen", Verdict.FAILED), (NAMES[2], Verdict.SKIPPED)):
        assert finding(name, checks).verdict is verdict
        assert "(EMFILE)" in finding(name, checks).evidence
        assert "ulimit -n" in (finding(name, checks).remedy or "")
    assert finding("descriptors", checks).verdict is Verdict.OK


async def test_any_other_error_is_a_bug(
    free: list[Address], monkeypatch: pytest.MonkeyPatch
) -> None:
    for place, error in (
        ("nitrohb.doctor.examine.open_listeners", OSError(errno.EIO, "broken")),
        ("trio._threads.start_thread_soon", RuntimeError("something else")),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(place, failing(error))
            with pytest.raises(type(error), match=str(error.args[-1])):
                await examine(free, 1)


async def test_another_listener_is_left_alone(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "s"))
        sock.listen()
        addresses = [UnixAddress(str(tmp_path / name)) for name in ("free", "s")]
        free, taken = (await examine(addresses, 1))[:2]
        assert free.finding.verdict is Verdict.OK
        assert taken.finding.evidence.startswith("a process already uses that path (EADDRINUSE)")
        assert os.listdir(tmp_path) == ["s"]
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):  # no connection waits
            sock.accept()


async def test_it_says_who_may_connect_to_a_socket_file(tmp_path: Path) -> None:
    """For a new socket file, as the server will create it. For an inherited one, as it is."""
    path, gid = str(tmp_path / "s"), os.getgid()
    (reach,) = (
        check.finding
        for check in await examine([UnixAddress(path)], 1, socket_mode=0o660, socket_group=gid)
        if check.name == "reach"
    )
    assert reach.evidence.startswith(f"{path} has mode 660, owner {os.getuid()} and group {gid}")
    assert "--socket-mode" not in (reach.remedy or "")
    with socket.socket(socket.AF_UNIX) as named, socket.socket(socket.AF_UNIX) as abstract:
        named.bind(path)
        abstract.bind("\0nitrohb test of the doctor")
        os.chmod(path, 0o700)
        for sock in (named, abstract):
            sock.listen()
        addresses = [InheritedSocket(os.dup(sock.fileno())) for sock in (named, abstract)]
        own, anybody = (check for check in await examine(addresses, 1) if check.name == "reach")
    assert own.finding.verdict is Verdict.INFO
    assert f"{path} has mode 700" in own.finding.evidence
    assert "--socket-mode 660 --socket-group GROUP" in (own.finding.remedy or "")
    assert (anybody.finding.verdict, anybody.finding.remedy) == (Verdict.OK, None)


async def test_the_cids_of_the_machine_decide_who_reaches_a_vsock_address(
    free: list[Address], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its socket tells whether its namespace is local: it can be from another namespace."""

    def where_bound(_: Listener) -> Address:
        return VsockAddress(CID_ANY, 9000)

    def errno_of_bind(cid: int) -> int:
        return 0 if cid == 1 else errno.EADDRNOTAVAIL

    monkeypatch.setattr(examining, "where_bound", where_bound)
    monkeypatch.setattr(probes, "bind_errno", errno_of_bind)
    for is_isolated, verdict in ((False, Verdict.INFO), (True, Verdict.WARNING)):
        monkeypatch.setattr(Listener, "is_isolated", lambda _, known=is_isolated: known)  # pyright: ignore
        assert finding("reach", await examine(free, 1)).verdict is verdict


async def test_a_kind_of_enclave_without_the_device_needs_no_check_of_it(
    free: list[Address],
) -> None:
    checks = await examine(free, 1, kind="firecracker")
    assert [check.name for check in checks] == [name for name in NAMES if name != NAMES[2]]
    assert finding("reach", await examine(free, 1, kind="nitro")).verdict is Verdict.FAILED


async def test_an_inherited_socket() -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        checks = await examine([InheritedSocket(sock.fileno())], 1)
        assert "does not listen (EINVAL)" in checks[0].finding.evidence


async def test_a_name_that_was_not_passed_in_is_a_failure_beside_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LISTEN_PID", raising=False)
    address = NamedDescriptor("heart")
    with pytest.raises(ListenError) as no:
        open_listeners([address])
    checks = await examine([address, UnixAddress(str(tmp_path / "s"))], 1)
    missing, free = checks[:2]
    assert missing.subject == "fd:heart"
    assert missing.finding == Finding(Verdict.FAILED, no.value.reason, no.value.remedy)
    assert free.finding.verdict is Verdict.OK


async def test_a_socket_that_is_named_by_its_number_and_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_FDNAMES", "heart")
    with pytest.raises(UsageError, match="fd:3: it is named twice"):
        await examine([InheritedSocket(3), NamedDescriptor("heart")], 1)


async def test_contradictions_are_rejected() -> None:
    cases: list[tuple[list[Address], str]] = [
        ([UnixAddress("x")] * 2, "named twice"),
        ([NamedDescriptor("not passed")] * 2, "named twice"),
        ([VsockAddress(1, 9000), VsockAddress(CID_ANY, 9000)], "cannot listen on both"),
        ([VsockAddress(1, PORT_ANY)], "lets the kernel choose the port"),
    ]
    for addresses, message in cases:
        with pytest.raises(UsageError, match=message):
            await examine(addresses, 1)


async def test_a_port_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a kernel that need not have AF_VSOCK; tests/vsock has a real holder."""
    taken = failing(ListenError("x", errno.EADDRINUSE, "taken", "stop it"))
    monkeypatch.setattr(probes, "suspects_of_port", lambda: "held")
    monkeypatch.setattr(examining, "open_listeners", taken)
    checks = await examine([VsockAddress(5, 9000), InheritedSocket(3)], 1)
    seen = [(check.finding.evidence, check.finding.remedy) for check in checks[:2]]
    assert seen == [("taken; held", "stop it"), ("taken", "stop it")]


async def test_a_stuck_check_delays_no_other(
    free: list[Address], monkeypatch: pytest.MonkeyPatch
) -> None:
    end = threading.Event()

    def hang(*_: object) -> Any:
        end.wait()

    monkeypatch.setattr(examining, "_DEADLINE", 0.5)
    monkeypatch.setattr(probes, "descriptor_limit", hang)
    monkeypatch.setattr(selftest, "beat_over_unix", hang)
    try:
        checks = await examine(free, 1)
    finally:
        end.set()
    overdue = "it did not finish within 0.5 s"
    assert finding("descriptors", checks) == Finding(Verdict.SKIPPED, overdue)
    assert finding("self-test-unix", checks) == Finding(Verdict.FAILED, overdue)
    assert finding("device-nitro-enclaves", checks).evidence != overdue
    assert finding("listen", checks).verdict is Verdict.OK


start_thread: Callable[..., None] = trio.lowlevel.start_thread_soon


@pytest.mark.parametrize("number", [0, 1, 3])
async def test_addresses_are_tried_where_no_more_threads_can_be_started(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [start_thread] * number

    def start(*args: object) -> None:
        if not left:
            raise RuntimeError("can't start new thread")
        left.pop()(*args)

    monkeypatch.setattr("trio._threads.start_thread_soon", start)
    addresses = [UnixAddress(str(tmp_path / name)) for name in ("s", "missing/s")]
    checks = await examine(addresses, 1)
    assert [check.name for check in checks] == ["listen", *NAMES]
    free, missing, reach, *others = (check.finding for check in checks)
    assert free.verdict is Verdict.OK
    assert "has mode 600" in reach.evidence
    assert "(ENOENT)" in missing.evidence
    for other in others:
        assert other.verdict is Verdict.WARNING
        assert "no thread can be started" in other.evidence
        assert "ulimit -u" in (other.remedy or "")
    assert os.listdir(tmp_path) == []


async def test_a_cancellation_leaves_no_file(
    free: list[Address], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scope = trio.CancelScope()
    look = probes.descriptor_limit

    def cancel() -> float:
        trio.from_thread.run_sync(scope.cancel)
        return look()

    monkeypatch.setattr(probes, "descriptor_limit", cancel)
    with scope:
        await examine(free, 1)
    assert scope.cancelled_caught
    assert os.listdir(tmp_path) == []
