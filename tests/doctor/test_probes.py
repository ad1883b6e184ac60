# SPDX-License-Identifier: Apache-2.0
"""What the probes see of this machine, and of machines that are made of files."""

import errno
import os
import resource
import socket
import stat
from pathlib import Path

import pytest

from nitrohb.addresses import CID_ANY, PORT_ANY
from nitrohb.doctor import probes
from nitrohb.doctor.probes import Device, LocalCid, Namespace
from nitrohb.remedies import NO_AF_VSOCK
from nitrohb.sockets import vsock as device_of_vsock


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_kernel_is_asked_for_af_vsock() -> None:
    assert probes.vsock_socket() in {0, errno.EAFNOSUPPORT, errno.EPERM}
    assert probes.bind_vsock(77) in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPERM}


def refuse(*_: object) -> socket.socket:
    raise OSError(errno.EAFNOSUPPORT, "no")


def test_a_python_or_a_kernel_without_af_vsock(monkeypatch: pytest.MonkeyPatch) -> None:
    for family, number in ((None, NO_AF_VSOCK), (9999, errno.EAFNOSUPPORT)):
        monkeypatch.setattr(probes, "AF_VSOCK", family)
        assert probes.bind_vsock(1) == number
    monkeypatch.setattr(socket, "socket", refuse)
    assert probes.vsock_socket() == errno.EAFNOSUPPORT


class Bindable:
    """A socket that binds to any address."""

    def __init__(self, *_: object) -> None:
        self.bound: object = None

    def __enter__(self) -> "Bindable":
        return self

    def __exit__(self, *_: object) -> None:
        assert self.bound == (1, PORT_ANY)

    def bind(self, address: object) -> None:
        self.bound = address


def test_a_cid_is_local_if_a_socket_can_be_bound_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(probes, "AF_VSOCK", 40)
    monkeypatch.setattr(socket, "socket", Bindable)
    assert probes.bind_vsock(1) == 0


def test_another_device_has_no_cid(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match="ioctl") as no:
        device_of_vsock.read_local_cid("/dev/null")
    assert no.value.errno == errno.ENOTTY

    def fail() -> int:
        raise OSError(errno.ENOTTY, "no")

    monkeypatch.setattr(probes, "read_local_cid", fail)
    assert probes.local_cid() == LocalCid(CID_ANY, errno.ENOTTY)
    monkeypatch.setattr(device_of_vsock, "read_local_cid", fail)
    assert device_of_vsock.local_cid() is None


def test_the_local_cid(monkeypatch: pytest.MonkeyPatch) -> None:
    for told, cid in ((3, 3), (CID_ANY, None)):
        monkeypatch.setattr(probes, "read_local_cid", lambda told=told: told)
        assert probes.local_cid() == LocalCid(told)
        monkeypatch.setattr(device_of_vsock, "read_local_cid", lambda told=told: told)
        assert device_of_vsock.local_cid() == cid


def test_transports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel with the CIDs 1 and 16, a loaded module and a built-in one."""

    def bind(cid: int) -> int:
        return 0 if cid in (1, 16) else errno.EADDRNOTAVAIL

    monkeypatch.setattr(probes, "bind_vsock", bind)
    write(tmp_path / "modules", "vsock_loopback 16384 0 - Live 0x0\nvsock 1 2 - Live 0x0\n")
    (tmp_path / "module" / "vhost_vsock").mkdir(parents=True)
    for local, guest in (
        (LocalCid(CID_ANY), errno.EADDRNOTAVAIL),
        (LocalCid(1), errno.EADDRNOTAVAIL),
        (LocalCid(2), errno.EADDRNOTAVAIL),
        (LocalCid(16), 0),
        (LocalCid(CID_ANY, errno.ENOENT), None),
    ):
        monkeypatch.setattr(probes, "local_cid", lambda local=local: local)
        seen = probes.transports(str(tmp_path), str(tmp_path))
        assert (seen.loopback, seen.guest, seen.host) == (0, guest, errno.EADDRNOTAVAIL), local
        assert seen.modules == {"vsock_loopback", "vsock", "vhost_vsock"}


def test_transports_of_this_machine() -> None:
    hidden = probes.transports("/nowhere", "/nowhere")
    assert hidden.modules == set()
    here = probes.transports()
    assert (here.loopback, here.guest, here.host) == (hidden.loopback, hidden.guest, hidden.host)


def test_devices(tmp_path: Path) -> None:
    assert probes.device("/dev/null") is Device.USABLE
    assert probes.device(str(tmp_path / "missing")) is Device.MISSING
    assert probes.device(str(tmp_path)) is Device.OTHER


def test_a_device_that_may_not_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a user of the groups 100 and 27."""
    status = (0,) * 10
    user = 1000
    monkeypatch.setattr(os, "stat", lambda _: os.stat_result(status))  # pyright: ignore
    monkeypatch.setattr(os, "access", lambda *_: False)  # pyright: ignore
    monkeypatch.setattr(os, "getuid", lambda: user)
    monkeypatch.setattr(os, "getgid", lambda: 100)
    monkeypatch.setattr(os, "getgroups", lambda: [27])
    for mode, uid, gid, user, seen in (
        (0o600, 0, 0, 1000, Device.FOR_OWNER),
        (0o660, 0, 36, 1000, Device.FOR_GROUP),
        (0o660, 0, 0, 1000, Device.FOR_OWNER),  # nobody is told to join the group root
        (0o620, 0, 36, 1000, Device.FOR_OWNER),
        (0o640, 0, 100, 1000, Device.FOR_OWNER),
        (0o660, 0, 100, 1000, Device.REFUSED),
        (0o660, 0, 27, 1000, Device.REFUSED),
        (0o666, 0, 0, 1000, Device.REFUSED),
        (0o600, 1000, 0, 1000, Device.REFUSED),
        (0o600, 65534, 65534, 0, Device.REFUSED),
    ):
        status = (stat.S_IFCHR | mode, 0, 0, 1, uid, gid, 0, 0, 0, 0)
        assert probes.device("/dev/vsock") is seen, (mode, uid, gid, user)


def test_the_seccomp_mode(tmp_path: Path) -> None:
    for status, mode in (
        ("Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n", 2),
        ("Name:\tSeccomp:\nSeccomp:\t0\n", 0),
        ("Seccomp:\t?\n", None),
        ("Name:\tx\n", None),
    ):
        write(tmp_path / "self" / "status", status)
        assert probes.seccomp_mode(str(tmp_path)) == mode, status


def test_a_lack_of_descriptors_is_not_mistaken_for_a_hidden_file() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        for look in (probes.seccomp_mode, probes.namespace):
            with pytest.raises(OSError, match="Too many open files"):
                look()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_the_namespace(tmp_path: Path) -> None:
    assert probes.seccomp_mode(str(tmp_path)) is None
    assert probes.namespace(str(tmp_path)) == Namespace(None, visible=False)
    (tmp_path / "sys" / "net").mkdir(parents=True)
    assert probes.namespace(str(tmp_path)) == Namespace(None, visible=True)
    write(tmp_path / "sys" / "net" / "vsock" / "ns_mode", "local\n")
    assert probes.namespace(str(tmp_path)) == Namespace("local", visible=True)


def test_the_limit_of_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    assert probes.descriptor_limits()[0] > 0

    def unlimited(_: int) -> tuple[int, int]:
        return 1024, resource.RLIM_INFINITY

    monkeypatch.setattr(resource, "getrlimit", unlimited)
    assert probes.descriptor_limits() == (1024, float("inf"))
