# SPDX-License-Identifier: Apache-2.0
"""Verdicts on machines that nobody here has: what they saw is made up, or drawn at random."""

import errno
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nitrohb.addresses import CID_ANY, Address, InheritedSocket, UnixAddress, VsockAddress
from nitrohb.doctor import judging
from nitrohb.doctor.judging import KINDS
from nitrohb.doctor.observing import Device, LocalCid, Namespace, Transports
from nitrohb.doctor.report import Check, Finding, Report, Verdict
from nitrohb.remedies import NO_AF_VSOCK, listen_error

ABSENT: Final = errno.EADDRNOTAVAIL
LOOPBACK, GUEST, HOST = KINDS
DEVICES: Final = ("/dev/vsock", "/dev/vhost-vsock", "/dev/nitro_enclaves")

errnos = st.one_of(
    st.just(0), st.just(NO_AF_VSOCK), st.just(ABSENT), st.sampled_from([*errno.errorcode])
)
seconds = st.floats(0, 10)
words = st.text().filter(lambda text: "None" not in text)
machines = st.builds(
    Transports,
    errnos,
    st.one_of(st.none(), errnos),
    errnos,
    st.frozensets(st.sampled_from([*GUEST.modules, *LOOPBACK.modules, *HOST.modules, "ext4"])),
)

FINDINGS: Final[dict[str, st.SearchStrategy[Finding]]] = {
    "python": st.builds(judging.judge_python, st.booleans(), st.booleans()),
    "kernel": st.builds(judging.judge_kernel, errnos, st.booleans(), st.booleans()),
    "seccomp": st.builds(
        judging.judge_seccomp,
        errnos,
        st.sampled_from([None, 0, 1, 2, 3]),
        st.booleans(),
        st.booleans(),
    ),
    "transport": st.builds(
        judging.judge_transport, st.sampled_from(KINDS), machines, st.booleans()
    ),
    "local-cid": st.builds(
        judging.judge_local_cid, st.builds(LocalCid, st.integers(0, CID_ANY), errnos)
    ),
    "device": st.builds(judging.judge_device, st.sampled_from(DEVICES), st.sampled_from(Device)),
    "namespace": st.builds(
        judging.judge_namespace,
        errnos,
        st.builds(Namespace, st.sampled_from([None, "", "global", "local", "?"]), st.booleans()),
        st.booleans(),
    ),
    "descriptors": st.builds(
        judging.judge_descriptors,
        st.integers(0, 1 << 20),
        st.one_of(st.integers(0, 1 << 20), st.just(float("inf"))),
        st.integers(1, 1 << 20),
    ),
    "listen": st.builds(
        judging.judge_listen,
        st.one_of(st.none(), st.builds(listen_error, st.just(VsockAddress(3, 9000)), errnos)),
        st.sampled_from([None, "held by process 1 (init)"]),
    ),
    "self-test-unix": st.builds(
        judging.judge_unix_beat,
        st.one_of(seconds, words, st.builds(OSError, st.just(28), st.just("full"))),
    ),
    "self-test-loopback": st.builds(
        judging.judge_loopback_beat,
        st.one_of(seconds, words, st.builds(OSError, errnos, st.just("x"))),
    ),
}


@given(st.data())
@pytest.mark.parametrize("name", FINDINGS)
def test_whatever_was_seen_has_evidence_and_what_is_wrong_a_remedy(
    name: str, data: st.DataObject
) -> None:
    finding = data.draw(FINDINGS[name])
    assert finding.evidence
    assert "None" not in finding.evidence
    if finding.verdict in (Verdict.FAILED, Verdict.WARNING):
        assert finding.remedy
    if finding.verdict is Verdict.OK:
        assert finding.remedy is None
    assert "{" not in (finding.remedy or "")


@given(errnos, st.sampled_from([VsockAddress(3, 9000), UnixAddress("s"), InheritedSocket(3)]))
def test_nobody_is_sent_to_the_doctor_by_the_doctor(number: int, address: Address) -> None:
    listen = judging.judge_listen(listen_error(address, number), None)
    kernel = judging.judge_kernel(number, needed=True)
    assert "doctor" not in f"{listen.remedy} {kernel.remedy}"


@given(st.lists(st.one_of(*FINDINGS.values())))
def test_the_worst_verdict_is_that_of_all(findings: list[Finding]) -> None:
    report = Report([Check("x", "X", None, finding) for finding in findings])
    verdicts = {finding.verdict for finding in findings}
    assert (report.overall is Verdict.FAILED) == (Verdict.FAILED in verdicts)
    assert (report.overall is Verdict.OK) == verdicts.isdisjoint({"failed", "warning"})
    assert report.overall in verdicts | {Verdict.OK}


@given(errnos, errnos, st.sampled_from([None, 0, 2]))
def test_nothing_of_af_vsock_fails_for_those_who_do_not_ask_for_it(
    number: int, other: int, mode: int | None
) -> None:
    machine = Transports(number, other, number, frozenset())
    findings = [
        judging.judge_python(has_af_vsock=False, needed=False),
        judging.judge_kernel(number, needed=False),
        judging.judge_seccomp(number, mode, needed=False),
        judging.judge_namespace(number, Namespace("local", visible=True), needed=False),
        *(judging.judge_transport(kind, machine, needed=False) for kind in KINDS),
    ]
    assert not {finding.verdict for finding in findings} & {Verdict.FAILED, Verdict.WARNING}


def machine(loopback: int, guest: int | None, host: int, *modules: str) -> Transports:
    return Transports(loopback, guest, host, frozenset(modules))


@pytest.mark.parametrize(
    ("finding", "verdict", "evidence", "remedy"),
    [
        (
            judging.judge_python(False, True),
            Verdict.FAILED,
            "built without AF_VSOCK",
            "another Python",
        ),
        (judging.judge_kernel(0, True), Verdict.OK, "makes AF_VSOCK sockets", ""),
        (
            judging.judge_kernel(errno.EAFNOSUPPORT, True),
            Verdict.FAILED,
            "no AF_VSOCK (EAFNOSUPPORT)",
            "modprobe vsock",
        ),
        (judging.judge_kernel(errno.EPERM, True), Verdict.SKIPPED, "see seccomp", ""),
        (judging.judge_kernel(errno.EACCES, True), Verdict.FAILED, "SELinux", "policy"),
        (judging.judge_seccomp(0, 2, True), Verdict.OK, "a filter is set, AF_VSOCK is not", ""),
        (
            judging.judge_seccomp(errno.EPERM, 2, True),
            Verdict.FAILED,
            "a filter is set, AF_VSOCK is refused (EPERM)",
            "Allow AF_VSOCK in that profile",
        ),
        (judging.judge_seccomp(errno.EPERM, None, True), Verdict.FAILED, "hidden", "profile"),
        (
            judging.judge_kernel(errno.EAFNOSUPPORT, True, has_device=True),
            Verdict.SKIPPED,
            "see seccomp",
            "",
        ),
        (
            judging.judge_seccomp(errno.EAFNOSUPPORT, 2, True, has_device=True),
            Verdict.FAILED,
            "AF_VSOCK is refused (EAFNOSUPPORT), though there is /dev/vsock",
            "RestrictAddressFamilies=",
        ),
        (
            judging.judge_seccomp(errno.EAFNOSUPPORT, 2, True),
            Verdict.SKIPPED,
            "a filter is set, AF_VSOCK is refused (EAFNOSUPPORT), maybe by it",
            "",
        ),
        (
            judging.judge_seccomp(errno.EAFNOSUPPORT, 0, True),
            Verdict.OK,
            "there is no filter, AF_VSOCK is not refused",
            "",
        ),
        (
            judging.judge_transport(LOOPBACK, machine(0, ABSENT, ABSENT, "vsock_loopback"), True),
            Verdict.OK,
            "there (module vsock_loopback): connections from this machine itself",
            "",
        ),
        (
            judging.judge_transport(LOOPBACK, machine(ABSENT, 0, ABSENT), True),
            Verdict.INFO,
            "missing: no connections from this machine itself",
            "modprobe vsock_loopback",
        ),
        (
            judging.judge_transport(HOST, machine(ABSENT, ABSENT, ABSENT), True),
            Verdict.WARNING,
            "nobody can connect",
            "modprobe vhost_vsock",
        ),
        (
            judging.judge_transport(GUEST, machine(0, None, 0, *GUEST.modules[:1]), True),
            Verdict.SKIPPED,
            "cannot be told without the local CID (module vmw_vsock_virtio_transport)",
            "",
        ),
        (judging.judge_local_cid(LocalCid(3)), Verdict.OK, "CID 3", ""),
        (judging.judge_local_cid(LocalCid(2)), Verdict.OK, "CID 2: a host", ""),
        (judging.judge_local_cid(LocalCid(CID_ANY)), Verdict.INFO, "none", ""),
        (judging.judge_local_cid(LocalCid(0, errno.EACCES)), Verdict.SKIPPED, "(EACCES)", ""),
        (
            judging.judge_device("/dev/nitro_enclaves", Device.MISSING),
            Verdict.INFO,
            "it is not there",
            "modprobe nitro_enclaves",
        ),
        (
            judging.judge_device("/dev/vsock", Device.FOR_GROUP),
            Verdict.INFO,
            "not in its group",
            "add them to the device's group (ls -l /dev/vsock)",
        ),
        (
            judging.judge_device("/dev/vsock", Device.FOR_OWNER),
            Verdict.INFO,
            "only its owner",
            "chgrp GROUP /dev/vsock",
        ),
        (
            judging.judge_device("/dev/vsock", Device.REFUSED),
            Verdict.INFO,
            "something else does not",
            "--device /dev/vsock",
        ),
        (
            judging.judge_namespace(0, Namespace("global", True), True),
            Verdict.OK,
            "whole machine",
            "",
        ),
        (judging.judge_namespace(0, Namespace(None, True), True), Verdict.OK, "Linux 7.0", ""),
        (
            judging.judge_namespace(errno.EAFNOSUPPORT, Namespace(None, True), True),
            Verdict.SKIPPED,
            "this kernel has no AF_VSOCK (EAFNOSUPPORT)",
            "",
        ),
        (
            judging.judge_namespace(errno.EPERM, Namespace(None, True), True),
            Verdict.SKIPPED,
            "cannot be told: AF_VSOCK is not permitted here",
            "",
        ),
        (judging.judge_namespace(0, Namespace(None, False), True), Verdict.SKIPPED, "hidden", ""),
        (judging.judge_namespace(0, Namespace("odd", True), True), Verdict.SKIPPED, "'odd'", ""),
        (
            judging.judge_namespace(0, Namespace("local", True), True),
            Verdict.WARNING,
            "only what is in this network namespace",
            "--network host",
        ),
        (judging.judge_descriptors(1024, 4096, 1024), Verdict.OK, "1024 may be open", ""),
        (judging.judge_descriptors(float("inf"), 4096, 2), Verdict.OK, "any number", ""),
        (
            judging.judge_descriptors(1023, 4096, 1024),
            Verdict.WARNING,
            "may raise it to 4096",
            "ulimit -n 1088",
        ),
        (
            judging.judge_listen(
                listen_error(VsockAddress(CID_ANY, 9000), errno.EADDRINUSE), "held by process 7 (x)"
            ),
            Verdict.FAILED,
            "(EADDRINUSE); held by process 7 (x)",
            "Stop the other listener",
        ),
        (judging.judge_unix_beat(0.0012), Verdict.OK, "answered in 1.2 ms", ""),
        (judging.judge_unix_beat("no"), Verdict.FAILED, "not answered: no", "report"),
        (judging.judge_unix_beat(OSError(28, "full")), Verdict.WARNING, "full", "TMPDIR=DIR"),
        (
            judging.judge_unix_beat(OSError(errno.EMFILE, "x")),
            Verdict.WARNING,
            "this process has too many open files (EMFILE)",
            "ulimit -n",
        ),
        (judging.judge_unix_beat(OSError("long")), Verdict.WARNING, "long", "TMPDIR=DIR"),
        (
            judging.judge_loopback_beat(OSError(ABSENT, "x")),
            Verdict.SKIPPED,
            "there is no loopback",
            "",
        ),
        (
            judging.judge_loopback_beat(OSError(errno.EPERM, "x")),
            Verdict.SKIPPED,
            "cannot be told: AF_VSOCK is not permitted here;",
            "",
        ),
        (
            judging.judge_loopback_beat(OSError(errno.EMFILE, "x")),
            Verdict.SKIPPED,
            "cannot be told: this process has too many open files (EMFILE)",
            "",
        ),
        (
            judging.judge_loopback_beat(OSError(NO_AF_VSOCK, "x")),
            Verdict.SKIPPED,
            "cannot be told: this Python was built without AF_VSOCK",
            "",
        ),
        (judging.judge_loopback_beat("no"), Verdict.WARNING, "not answered: no", "CID 1"),
    ],
    ids=lambda value: value.evidence if isinstance(value, Finding) else "",
)
def test_verdicts(finding: Finding, verdict: Verdict, evidence: str, remedy: str) -> None:
    assert finding.verdict is verdict
    assert evidence in finding.evidence
    assert remedy in (finding.remedy or "")
    assert bool(finding.remedy) is bool(remedy)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_each_kind_of_transport_has_its_own_errno(kind: judging.Kind) -> None:
    numbers = {"loopback": 1, "guest": 2, "host": 3}
    assert kind.errno(Transports(**numbers, modules=frozenset())) == numbers[kind.name]


def test_every_device_has_a_remedy() -> None:
    remedies = {judging.judge_device(path, Device.OTHER).remedy for path in DEVICES}
    assert len(remedies) == len(DEVICES)
