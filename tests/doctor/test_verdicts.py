# SPDX-License-Identifier: Apache-2.0
"""Verdicts on invented machines, some of them random."""

import errno
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nitrohb.addresses import CID_ANY, Address, InheritedSocket, UnixAddress, VsockAddress
from nitrohb.cli.options import KINDS as CHOICES
from nitrohb.doctor.probes import Enclaves
from nitrohb.doctor.verdicts import (
    CIDS,
    KINDS,
    LISTENS,
    CheckResult,
    Endpoint,
    Finding,
    Verdict,
    judge_descriptors,
    judge_enclaves,
    judge_heartbeat,
    judge_listen,
    judge_reach,
    overall,
)
from nitrohb.remedies import LOCAL_ADVICE, NO_AF_VSOCK, listen_error

OK, INFO, WARNING, FAILED, SKIPPED = Verdict
ABSENT: Final = errno.EADDRNOTAVAIL
errnos = st.one_of(
    st.just(0), st.just(NO_AF_VSOCK), st.just(ABSENT), st.sampled_from([*errno.errorcode])
)
cids = st.fixed_dictionaries(dict.fromkeys(CIDS, errnos))
vsocks = st.builds(Endpoint, st.sampled_from([*CIDS, 77, CID_ANY]), st.booleans(), st.none())
FILE: Final = ("s has mode 600", "--socket-mode")
unixes = st.just(Endpoint(CID_ANY, False, FILE))
counts = st.integers(0, 1 << 20)
failures = st.builds(OSError, errnos, st.just("x"))
beats = st.one_of(st.floats(0, 10), st.text("ab {}\n\x1b"), failures)

FINDINGS: Final[dict[str, st.SearchStrategy[Finding]]] = {
    "reach": st.builds(
        judge_reach,
        st.sampled_from([*KINDS]),
        st.one_of(vsocks, unixes),
        cids,
        st.sampled_from(Enclaves),
    ),
    "device-nitro-enclaves": st.builds(judge_enclaves, st.sampled_from(Enclaves)),
    "descriptors": st.builds(judge_descriptors, counts, st.integers(1, 1 << 20)),
    "listen": st.builds(
        judge_listen,
        st.builds(listen_error, st.just(VsockAddress(3, 9000)), errnos),
        st.sampled_from([None, "held by process 1 (init)"]),
    ),
    "self-test-unix": st.builds(judge_heartbeat, beats),
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
    reach = judge_reach(None, ANY, dict.fromkeys(CIDS, number), Enclaves.UNKNOWN)
    assert "doctor" not in f"{listen.remedy} {reach.remedy}"


@given(st.lists(st.one_of(*FINDINGS.values())))
def test_the_worst_verdict_is_the_overall_one(findings: list[Finding]) -> None:
    worst = overall(CheckResult("x", "X", None, finding) for finding in findings)
    verdicts = {finding.verdict for finding in findings}
    assert (worst is FAILED) == (FAILED in verdicts)
    assert (worst is OK) == verdicts.isdisjoint({"failed", "warning"})
    assert worst in verdicts | {OK}


@given(vsocks, cids, st.sampled_from(Enclaves))
def test_an_enclave_can_arrive_if_one_of_some_kind_can(
    end: Endpoint, seen: dict[int, int], enclaves: Enclaves
) -> None:
    """And no heartbeat arrives at a CID that the machine does not have."""
    arrive = {OK, INFO, WARNING}
    verdicts = {kind: judge_reach(kind, end, seen, enclaves).verdict for kind in KINDS}
    if arrive & {*verdicts.values()}:
        assert verdicts[None] in arrive
    if 0 not in seen.values() and end.cid == CID_ANY:
        assert arrive.isdisjoint(verdicts.values())


def test_the_kinds_are_those_of_the_command_line() -> None:
    assert [*KINDS] == [None, *CHOICES]


ANY: Final = Endpoint(CID_ANY, False, None)
UNIX: Final = Endpoint(CID_ANY, False, FILE)
SHUT: Final = Endpoint(CID_ANY, True, None)


def reach(
    *present: int, kind: str | None = None, end: Endpoint = ANY, at: Enclaves = Enclaves.UNKNOWN
) -> Finding:
    """On a machine that has some CIDs."""
    return judge_reach(kind, end, {cid: 0 if cid in present else ABSENT for cid in CIDS}, at)


def at(cid: int) -> Endpoint:
    return Endpoint(cid, False, None)


EPERM: Final = dict.fromkeys(CIDS, errno.EPERM)
TAKEN = listen_error(VsockAddress(CID_ANY, 9000), errno.EADDRINUSE)
FULL = OSError(errno.ENOSPC, "full")
LOCAL, HELP = LOCAL_ADVICE

VERDICTS: Final[list[tuple[Finding, Verdict, str, str]]] = [
    (reach(), FAILED, "not have CID 1 or 2 or 3", "modprobe vsock_loopback"),
    (reach(1), INFO, "over the loopback", "modprobe vhost_vsock"),
    (reach(1, 2, 3), OK, "real enclaves", ""),
    (reach(77, end=at(77)), OK, "clients of CID 77", ""),
    (reach(3, end=at(3)), OK, "from real enclaves", ""),
    (reach(3, at=Enclaves.DISABLED), SKIPPED, "only sibling VMs", "modprobe vsock_loopback"),
    (reach(1, 3, kind="qemu", at=Enclaves.DISABLED), OK, "the loopback", ""),
    (judge_reach(None, ANY, EPERM, Enclaves.UNKNOWN), SKIPPED, "not permitted", ""),
    (reach(1, 2, kind="nitro"), FAILED, "not have CID 3", "EC2"),
    (reach(3, kind="nitro"), OK, "real enclaves", ""),
    (reach(3, kind="nitro", at=Enclaves.DISABLED), FAILED, "1d0f:e4c1", "with enclaves enabled"),
    (reach(3, kind="nitro", at=Enclaves.NO_DRIVER), FAILED, "no driver", "modprobe nitro"),
    (reach(3, kind="nitro", at=Enclaves.OUTSIDE), OK, "real enclaves", ""),
    (reach(1, kind="nitro", end=at(1)), FAILED, "never connects to CID 1", "vsock::9000"),
    (reach(kind="nitro", end=UNIX), FAILED, "never connects to a Unix socket", "vsock::9000"),
    (reach(1, 3, end=SHUT), WARNING, LOCAL, HELP),
    (reach(3, end=SHUT), FAILED, LOCAL, HELP),
    (reach(1, 3, kind="nitro", end=SHUT), FAILED, LOCAL, HELP),
    (reach(3, kind="qemu"), INFO, "sibling VMs", "vsock_loopback"),
    (reach(kind="qemu", end=UNIX), WARNING, "CID 2 only", "forward-cid=1"),
    (reach(kind="qemu", end=UNIX), WARNING, *FILE),
    (reach(1, 2, 3, kind="firecracker"), FAILED, "a Firecracker VM", "hybrid:PATH:9000"),
    (reach(kind="cloud-hypervisor", end=UNIX), INFO, *FILE),
    (reach(end=Endpoint(CID_ANY, False, ("mode 666", None))), OK, "mode 666", ""),
    (judge_enclaves(Enclaves.STARTABLE), OK, "can open", ""),
    (judge_enclaves(Enclaves.REFUSED), INFO, "cannot open", "group"),
    (judge_enclaves(Enclaves.DISABLED), INFO, "not enabled", "launched with enclaves enabled"),
    (judge_enclaves(Enclaves.NO_DRIVER), INFO, "no driver", "modprobe nitro_enclaves"),
    (judge_descriptors(1088, 1024), OK, "1088 may be open", ""),
    (judge_descriptors(1024, 1024), INFO, "1024 may be open", "ulimit -n 1088"),
    (judge_descriptors(float("inf"), 2), OK, "inf may be open", ""),
    (judge_descriptors(1023, 1024), WARNING, "--max-pending is 1024", "LimitNOFILE=1088"),
    (judge_listen(TAKEN, "held by 7"), FAILED, "(EADDRINUSE); held by 7", "ss --vsock -lp"),
    (LISTENS, OK, "can listen there", ""),
    (judge_heartbeat(0.0012), OK, "1.2 ms", ""),
    (judge_heartbeat("no"), FAILED, "not answered: no", "report"),
    (judge_heartbeat(FULL), WARNING, "full", "TMPDIR=DIR nitrohb doctor"),
    (judge_heartbeat(OSError("long")), WARNING, "long", "TMPDIR=DIR"),
    (judge_heartbeat(OSError(errno.EMFILE, "x")), WARNING, "(EMFILE)", "ulimit -n"),
]


def test_verdicts() -> None:
    for finding, verdict, evidence, remedy in VERDICTS:
        assert finding.verdict is verdict, finding
        assert evidence in finding.evidence, finding
        assert remedy in (finding.remedy or ""), finding
        assert bool(finding.remedy) is bool(remedy), finding
