# SPDX-License-Identifier: Apache-2.0
"""Verdicts on machines that are made up, or drawn at random."""

import errno
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nitrohb.addresses import CID_ANY, Address, InheritedSocket, UnixAddress, VsockAddress
from nitrohb.doctor.probes import Device
from nitrohb.doctor.verdicts import (
    DEVICES,
    LISTENS,
    LISTENS_LOCALLY,
    TRANSPORTS,
    CheckResult,
    Finding,
    Verdict,
    judge_descriptors,
    judge_device,
    judge_kernel,
    judge_listen,
    judge_local_cid,
    judge_loopback_heartbeat,
    judge_python,
    judge_transport,
    judge_unix_heartbeat,
    overall,
    unneeded,
)
from nitrohb.remedies import NO_AF_VSOCK, listen_error

OK, INFO, WARNING, FAILED, SKIPPED = Verdict
ABSENT: Final = errno.EADDRNOTAVAIL
MODULES: Final = ["vsock_loopback", "vmw_vsock_virtio_transport", "hv_sock", "vhost_vsock"]

errnos = st.one_of(
    st.just(0), st.just(NO_AF_VSOCK), st.just(ABSENT), st.sampled_from([*errno.errorcode])
)
machines = st.fixed_dictionaries(dict.fromkeys(TRANSPORTS, st.one_of(st.none(), errnos)))
counts = st.integers(0, 1 << 20)
failures = st.builds(OSError, errnos, st.just("x"))
beats = st.one_of(st.floats(0, 10), st.text("ab {}\n\x1b"), failures)

FINDINGS: Final[dict[str, st.SearchStrategy[Finding]]] = {
    "python": st.builds(judge_python, st.booleans()),
    "kernel": st.builds(judge_kernel, errnos, st.sampled_from(Device)),
    "transport": st.builds(
        judge_transport,
        st.sampled_from([*TRANSPORTS]),
        machines,
        st.lists(st.sampled_from([*MODULES, "ext4"])),
        st.booleans(),
    ),
    "local-cid": st.builds(judge_local_cid, st.one_of(st.integers(0, CID_ANY), failures)),
    "device": st.builds(judge_device, st.sampled_from([*DEVICES]), st.sampled_from(Device)),
    "descriptors": st.builds(judge_descriptors, counts, st.integers(1, 1 << 20)),
    "listen": st.builds(
        judge_listen,
        st.builds(listen_error, st.just(VsockAddress(3, 9000)), errnos),
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
    kernel = judge_kernel(number, Device.MISSING)
    assert "doctor" not in f"{listen.remedy} {kernel.remedy}"


@given(st.lists(st.one_of(*FINDINGS.values())))
def test_the_worst_verdict_is_the_overall_one(findings: list[Finding]) -> None:
    worst = overall(CheckResult("x", "X", None, finding) for finding in findings)
    verdicts = {finding.verdict for finding in findings}
    assert (worst is FAILED) == (FAILED in verdicts)
    assert (worst is OK) == verdicts.isdisjoint({"failed", "warning"})
    assert worst in verdicts | {OK}


@given(st.one_of(*FINDINGS.values()))
def test_what_is_not_needed_is_no_problem(finding: Finding) -> None:
    seen = unneeded(finding)
    assert seen.verdict is (INFO if finding.verdict in (FAILED, WARNING) else finding.verdict)
    assert (seen.evidence, seen.remedy) == (finding.evidence, finding.remedy)


def judge(
    kind: str, loopback: int, guest: int | None, host: int, *modules: str, is_local: bool = False
) -> Finding:
    seen = {"loopback": loopback, "guest": guest, "host": host}
    return judge_transport(kind, seen, [*modules], is_local)


NO_FAMILY = errno.EAFNOSUPPORT
TAKEN = listen_error(VsockAddress(CID_ANY, 9000), errno.EADDRINUSE)
FULL = OSError(errno.ENOSPC, "full")
MISSING, REFUSED, USABLE = Device.MISSING, Device.REFUSED, Device.USABLE

VERDICTS: Final[list[tuple[Finding, Verdict, str, str]]] = [
    (judge_python(False), FAILED, "without AF_VSOCK", "another Python"),
    (judge_python(True), OK, "AF_VSOCK", ""),
    (judge_kernel(0, USABLE), OK, "AF_VSOCK", ""),
    (judge_kernel(NO_FAMILY, MISSING), FAILED, "no AF_VSOCK (EAFNOSUPPORT)", "modprobe vsock"),
    (judge_kernel(NO_FAMILY, Device.OTHER), FAILED, "no AF_VSOCK", "modprobe vsock"),
    (judge_kernel(NO_FAMILY, USABLE), FAILED, "although /dev/vsock", "RestrictAddressFamilies="),
    (judge_kernel(NO_FAMILY, REFUSED), FAILED, "although /dev/vsock", "seccomp profile"),
    (judge_kernel(errno.EPERM, USABLE), FAILED, "seccomp profile", "Allow AF_VSOCK"),
    (judge_kernel(errno.EACCES, USABLE), FAILED, "SELinux", "policy"),
    (judge("loopback", 0, 1, 1, "vsock_loopback"), OK, "present (module vsock_loopback)", ""),
    (judge("loopback", ABSENT, 0, ABSENT), INFO, "this machine itself", "vsock_loopback"),
    (judge("host", ABSENT, ABSENT, ABSENT), WARNING, "like all others", "vhost_vsock"),
    (judge("host", 1, 1, errno.EPERM), SKIPPED, "not permitted", ""),
    (judge("guest", 0, None, 0, MODULES[1]), SKIPPED, "local CID (module vmw_vsock_virtio", ""),
    (judge("guest", ABSENT, 0, ABSENT), OK, "present", ""),
    (judge("guest", ABSENT, 0, ABSENT, is_local=True), INFO, "closed to a local vsock", ""),
    (judge("loopback", 0, 0, ABSENT, is_local=True), OK, "present", ""),
    (judge_local_cid(3), OK, "CID 3", ""),
    (judge_local_cid(2), OK, "CID 2: a host", ""),
    (judge_local_cid(1), OK, "CID 1: only the loopback", ""),
    (judge_local_cid(CID_ANY), INFO, "none", ""),
    (judge_local_cid(OSError(errno.EACCES, "no")), SKIPPED, "(EACCES)", ""),
    (judge_device("/dev/nitro_enclaves", MISSING), INFO, "not exist", "nitro_enclaves"),
    (judge_device("/dev/vsock", USABLE), OK, "may open", ""),
    (judge_device("/dev/vsock", REFUSED), INFO, "may not open", "--device /dev/vsock"),
    (judge_device("/dev/vhost-vsock", REFUSED), INFO, "may not open", "ls -l /dev/vhost-vsock"),
    (judge_descriptors(1024, 1024), OK, "1024 may be open", ""),
    (judge_descriptors(float("inf"), 2), OK, "inf may be open", ""),
    (judge_descriptors(1023, 1024), WARNING, "--max-pending is 1024", "LimitNOFILE=1088"),
    (judge_listen(TAKEN, "held by 7"), FAILED, "(EADDRINUSE); held by 7", "ss --vsock -lp"),
    (LISTENS, OK, "can listen there", ""),
    (LISTENS_LOCALLY, WARNING, "can listen there (tried and undone), but only", "--network host"),
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
