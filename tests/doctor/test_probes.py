# SPDX-License-Identifier: Apache-2.0
"""What the probes see of this machine, and of machines that are made of files."""

import errno
import os
import resource
import socket
from pathlib import Path

import pytest

from nitrohb.addresses import CID_ANY, PORT_ANY
from nitrohb.doctor import probes
from nitrohb.doctor.probes import Device
from nitrohb.remedies import NO_AF_VSOCK
from nitrohb.sockets import vsock as device_of_vsock


def test_the_kernel_is_asked_for_af_vsock() -> None:
    assert probes.vsock_socket() in {0, errno.EAFNOSUPPORT, errno.EPERM}
    assert probes.vsock_socket(77) in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPERM}


def refuse(*_: object) -> socket.socket:
    raise OSError(errno.EAFNOSUPPORT, "no")


def test_a_python_or_a_kernel_without_af_vsock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", refuse)
    for family, number in ((None, NO_AF_VSOCK), (40, errno.EAFNOSUPPORT)):
        monkeypatch.setattr(probes, "AF_VSOCK", family)
        assert probes.vsock_socket(1) == number
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
    assert probes.vsock_socket(1) == 0


def test_another_device_has_no_cid(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match="ioctl") as no:
        device_of_vsock.read_local_cid("/dev/null")
    assert no.value.errno == errno.ENOTTY

    monkeypatch.setattr(probes, "read_local_cid", refuse)
    assert isinstance(probes.local_cid(), OSError)
    monkeypatch.setattr(device_of_vsock, "read_local_cid", refuse)
    assert device_of_vsock.local_cid() is None


def test_the_local_cid(monkeypatch: pytest.MonkeyPatch) -> None:
    for told, cid in ((3, 3), (CID_ANY, None)):
        monkeypatch.setattr(probes, "read_local_cid", lambda told=told: told)
        assert probes.local_cid() == told
        monkeypatch.setattr(device_of_vsock, "read_local_cid", lambda told=told: told)
        assert device_of_vsock.local_cid() == cid


def test_transports(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel with the CIDs 1 and 16."""

    def bind(cid: int) -> int:
        return 0 if cid in (1, 16) else errno.EADDRNOTAVAIL

    monkeypatch.setattr(probes, "vsock_socket", bind)
    for local, guest in (
        (CID_ANY, errno.EADDRNOTAVAIL),
        (1, errno.EADDRNOTAVAIL),
        (2, errno.EADDRNOTAVAIL),
        (16, 0),
        (OSError(errno.ENOENT, "no"), None),
    ):
        monkeypatch.setattr(probes, "local_cid", lambda local=local: local)
        seen = {"loopback": 0, "guest": guest, "host": errno.EADDRNOTAVAIL}
        assert probes.transports() == seen, local


def test_modules(tmp_path: Path) -> None:
    assert probes.modules(str(tmp_path)) == []
    (tmp_path / "module" / "vhost_vsock").mkdir(parents=True)
    assert probes.modules(str(tmp_path)) == ["vhost_vsock"]


def test_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert probes.device("/dev/null") is Device.USABLE
    assert probes.device(str(tmp_path / "missing")) is Device.MISSING
    assert probes.device(str(tmp_path)) is Device.OTHER
    monkeypatch.setattr(os, "access", lambda *_: False)  # pyright: ignore
    assert probes.device("/dev/null") is Device.REFUSED


def test_a_lack_of_descriptors_is_not_mistaken_for_a_hidden_file() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            probes.namespace()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_the_namespace(tmp_path: Path) -> None:
    assert probes.namespace(str(tmp_path)) is None
    (tmp_path / "sys" / "net").mkdir(parents=True)
    assert probes.namespace(str(tmp_path)) == ""
    (tmp_path / "sys" / "net" / "vsock").mkdir()
    (tmp_path / "sys" / "net" / "vsock" / "ns_mode").write_text("local\n")
    assert probes.namespace(str(tmp_path)) == "local"


def test_the_limit_of_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, seen in ((1024, 1024), (resource.RLIM_INFINITY, float("inf"))):
        monkeypatch.setattr(resource, "getrlimit", lambda _, limit=limit: (limit, 4096))  # pyright: ignore
        assert probes.descriptor_limit() == seen
