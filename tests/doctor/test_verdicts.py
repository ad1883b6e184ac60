# SPDX-License-Identifier: Apache-2.0
"""Verdicts on machines that are made up, or drawn at random."""

import errno
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nitrohb.addresses import CID_ANY, Address, InheritedSocket, UnixAddress, VsockAddress
from nitrohb.doctor.probes import Device, LocalCid, Namespace, Transports
from nitrohb.doctor.verdicts import (
    DEVICES,
    KINDS,
    Check,
    Finding,
    Report,
    Verdict,
    judge_descriptors,
    judge_device,
    judge_kernel,
    judge_listen,
    judge_local_cid,
    judge_loopback_heartbeat,
    judge_namespace,
    judge_python,
    judge_seccomp,
    judge_transport,
    judge_unix_heartbeat,
)
from nitrohb.remedies import NO_AF_VSOCK, listen_error

OK, INFO, WARNING, FAILED, SKIPPED = Verdict
ABSENT: Final = errno.EADDRNOTAVAIL
LOOPBACK, GUEST, HOST = KINDS

errnos = st.one_of(
    st.just(0), st.just(NO_AF_VSOCK), st.just(ABSENT), st.sampled_from([*errno.errorcode])
)
seconds = st.floats(0, 10)
words = st.text("ab {}\n\x1b")
machines = st.builds(
    Transports,
    errnos,
    st.one_of(st.none(), errnos),
    errnos,
    st.frozensets(st.sampled_from([*GUEST.modules, *LOOPBACK.modules, *HOST.modules, "ext4"])),
)

needed = st.booleans()
modes = st.sampled_from([None, 0, 1, 2, 3])
counts = st.integers(0, 1 << 20)
namespaces = st.builds(Namespace, st.sampled_from([None, "", "global", "local", "?"]), needed)
failures = st.builds(OSError, errnos, st.just("x"))
beats = st.one_of(seconds, words, failures)

FINDINGS: Final[dict[str, st.SearchStrategy[Finding]]] = {
    "python": st.builds(judge_python, st.booleans(), needed),
    "kernel": st.builds(judge_kernel, errnos, needed, st.booleans()),
    "seccomp": st.builds(judge_seccomp, errnos, modes, needed, st.booleans()),
    "transport": st.builds(judge_transport, st.sampled_from(KINDS), machines, needed),
    "local-cid": st.builds(judge_local_cid, st.builds(LocalCid, st.integers(0, CID_ANY), errnos)),
    "device": st.builds(judge_device, st.sampled_from([*DEVICES]), st.sampled_from(Device)),
    "namespace": st.builds(judge_namespace, errnos, namespaces, needed),
    "descriptors": st.builds(
        judge_descriptors, counts, st.one_of(counts, st.just(float("inf"))), st.integers(1, 1 << 20)
    ),
    "listen": st.builds(
        judge_listen,
        st.one_of(st.none(), st.builds(listen_error, st.just(VsockAddress(3, 9000)), errnos)),
        st.sampled_from([None, "held by process 1 (init)"]),
    ),
    "self-test-unix": st.builds(judge_unix_heartbeat, beats),
    "self-test-loopback": st.builds(judge_loopback_heartbeat, beats),
}


@pytest.mark.parametrize("name", FINDINGS)
@given(st.data())
def test_a_finding_has_evidence_and_a_problem_has_a_remedy(name: str, data: st.DataObject) -> None:
    finding = data.draw(FINDINGS[name])
    assert finding.evidence
    assert "None" not in finding.evidence
    if finding.verdict in (FAILED, WARNING):
        assert finding.remedy
    if finding.verdict is OK:
        assert finding.remedy is None
    assert "{" not in (finding.remedy or "")


@given(errnos, st.sampled_from([VsockAddress(3, 9000), UnixAddress("s"), InheritedSocket(3)]))
def test_the_doctor_does_not_refer_to_itself(number: int, address: Address) -> None:
    listen = judge_listen(listen_error(address, number), None)
    kernel = judge_kernel(number, needed=True)
    assert "doctor" not in f"{listen.remedy} {kernel.remedy}"


@given(st.lists(st.one_of(*FINDINGS.values())))
def test_the_worst_verdict_is_the_overall_one(findings: list[Finding]) -> None:
    report = Report([Check("x", "X", None, finding) for finding in findings])
    verdicts = {finding.verdict for finding in findings}
    assert (report.overall is FAILED) == (FAILED in verdicts)
    assert (report.overall is OK) == verdicts.isdisjoint({"failed", "warning"})
    assert report.overall in verdicts | {OK}


@given(errnos, errnos, st.sampled_from([None, 0, 2]))
def test_af_vsock_cannot_fail_if_it_is_not_needed(
    number: int, other: int, mode: int | None
) -> None:
    machine = Transports(number, other, number, frozenset())
    findings = [
        judge_python(has_af_vsock=False, needed=False),
        judge_kernel(number, needed=False),
        judge_seccomp(number, mode, needed=False),
        judge_namespace(number, Namespace("local", visible=True), needed=False),
        *(judge_transport(kind, machine, needed=False) for kind in KINDS),
    ]
    assert not {finding.verdict for finding in findings} & {FAILED, WARNING}


def machine(loopback: int, guest: int | None, host: int, *modules: str) -> Transports:
    return Transports(loopback, guest, host, frozenset(modules))


NO_FAMILY = errno.EAFNOSUPPORT
TAKEN = listen_error(VsockAddress(CID_ANY, 9000), errno.EADDRINUSE)
GUESTS_ONLY = machine(0, None, 0, *GUEST.modules[:1])
FULL = OSError(errno.ENOSPC, "full")

VERDICTS: Final[list[tuple[Finding, Verdict, str, str]]] = [
    (judge_python(False, True), FAILED, "without AF_VSOCK", "another Python"),
    (judge_python(True, True), OK, "AF_VSOCK", ""),
    (judge_kernel(0, True), OK, "AF_VSOCK", ""),
    (judge_kernel(NO_FAMILY, True), FAILED, "no AF_VSOCK (EAFNOSUPPORT)", "modprobe vsock"),
    (judge_kernel(NO_FAMILY, True, has_device=True), SKIPPED, "see seccomp", ""),
    (judge_kernel(errno.EPERM, True), SKIPPED, "see seccomp", ""),
    (judge_kernel(errno.EACCES, True), FAILED, "SELinux", "policy"),
    (judge_seccomp(0, 2, True), OK, "a filter is set, AF_VSOCK is not", ""),
    (judge_seccomp(0, 1, True), OK, "mode is 1", ""),
    (judge_seccomp(errno.EPERM, 2, True), FAILED, "refused (EPERM)", "profile"),
    (judge_seccomp(errno.EPERM, None, True), FAILED, "hidden", "profile"),
    (judge_seccomp(NO_FAMILY, 2, True, True), FAILED, "/dev/vsock", "RestrictAddressFamilies="),
    (judge_seccomp(NO_FAMILY, 2, True), SKIPPED, "refused (EAFNOSUPPORT)", ""),
    (judge_seccomp(NO_FAMILY, 0, True), OK, "there is no filter, AF_VSOCK is not refused", ""),
    (judge_transport(LOOPBACK, machine(0, 1, 1, "vsock_loopback"), True), OK, "loopback)", ""),
    (judge_transport(LOOPBACK, machine(ABSENT, 0, ABSENT), True), INFO, "itself", "vsock_loopback"),
    (judge_transport(HOST, machine(ABSENT, ABSENT, ABSENT), True), WARNING, "all", "vhost_vsock"),
    (judge_transport(HOST, machine(1, 1, errno.EPERM), True), SKIPPED, "not permitted", ""),
    (judge_transport(GUEST, GUESTS_ONLY, True), SKIPPED, "local CID (module vmw_vsock_virtio", ""),
    (judge_local_cid(LocalCid(3)), OK, "CID 3", ""),
    (judge_local_cid(LocalCid(2)), OK, "CID 2: a host", ""),
    (judge_local_cid(LocalCid(1)), OK, "CID 1: only the loopback", ""),
    (judge_local_cid(LocalCid(CID_ANY)), INFO, "none", ""),
    (judge_local_cid(LocalCid(0, errno.EACCES)), SKIPPED, "(EACCES)", ""),
    (judge_device("/dev/nitro_enclaves", Device.MISSING), INFO, "not exist", "nitro_enclaves"),
    (judge_device("/dev/vsock", Device.USABLE), OK, "may open", ""),
    (judge_device("/dev/vsock", Device.FOR_GROUP), INFO, "its group", "ls -l /dev/vsock"),
    (judge_device("/dev/vsock", Device.FOR_OWNER), INFO, "its owner", "chgrp GROUP /dev/vsock"),
    (judge_device("/dev/vsock", Device.REFUSED), INFO, "something else", "--device /dev/vsock"),
    (judge_namespace(0, Namespace("global", True), True), OK, "global", ""),
    (judge_namespace(0, Namespace(None, True), True), OK, "Linux 7.0", ""),
    (judge_namespace(NO_FAMILY, Namespace(None, True), True), SKIPPED, "no AF_VSOCK", ""),
    (judge_namespace(errno.EPERM, Namespace(None, True), True), SKIPPED, "not permitted", ""),
    (judge_namespace(0, Namespace(None, False), True), SKIPPED, "hidden", ""),
    (judge_namespace(0, Namespace("odd", True), True), SKIPPED, "'odd'", ""),
    (judge_namespace(0, Namespace("local", True), True), WARNING, "local", "--network host"),
    (judge_descriptors(1024, 4096, 1024), OK, "1024 may be open", ""),
    (judge_descriptors(float("inf"), 4096, 2), OK, "any number", ""),
    (judge_descriptors(1023, 4096, 1024), WARNING, "may raise it to 4096", "ulimit -n 1088"),
    (judge_descriptors(1023, 1023, 1024), WARNING, "--max-pending is 1024", "LimitNOFILE=1088"),
    (judge_listen(TAKEN, "held by 7"), FAILED, "(EADDRINUSE); held by 7", "ss --vsock -lp"),
    (judge_listen(None, None), OK, "", ""),
    (judge_unix_heartbeat(0.0012), OK, "1.2 ms", ""),
    (judge_unix_heartbeat("no"), FAILED, "not answered: no", "report"),
    (judge_unix_heartbeat(FULL), WARNING, "full", "TMPDIR=DIR nitrohb doctor"),
    (judge_unix_heartbeat(OSError("long")), WARNING, "long", "TMPDIR=DIR"),
    (judge_unix_heartbeat(OSError(errno.EMFILE, "x")), WARNING, "(EMFILE)", "ulimit -n"),
    (judge_loopback_heartbeat(0.0012), OK, "1.2 ms", ""),
    (judge_loopback_heartbeat("no"), WARNING, "not answered: no", "CID 1"),
    (judge_loopback_heartbeat(OSError(ABSENT, "x")), SKIPPED, "there is no loopback", ""),
    (judge_loopback_heartbeat(OSError(errno.EPERM, "x")), SKIPPED, "not permitted", ""),
    (judge_loopback_heartbeat(OSError(errno.EMFILE, "x")), SKIPPED, "(EMFILE)", ""),
    (judge_loopback_heartbeat(OSError(NO_AF_VSOCK, "x")), SKIPPED, "without AF_VSOCK", ""),
]


def test_verdicts() -> None:
    for finding, verdict, evidence, remedy in VERDICTS:
        assert finding.verdict is verdict, finding
        assert evidence in finding.evidence, finding
        assert remedy in (finding.remedy or ""), finding
        assert bool(finding.remedy) is bool(remedy), finding


def test_each_kind_of_transport_has_its_own_errno() -> None:
    seen = machine(1, 2, 3)
    assert {kind.name: kind.errno(seen) for kind in KINDS} == {"loopback": 1, "guest": 2, "host": 3}
