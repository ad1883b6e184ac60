# SPDX-License-Identifier: Apache-2.0
"""The units under a real systemd in a virtual machine, as docs/how-to/systemd.md shows."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.systemd import machine

ROOT = Path(__file__).parent.parent.parent
HERE = Path(__file__).parent

PROOF = """\
[Unit]
DefaultDependencies=no
Requires=basic.target
After=basic.target
[Service]
Type=oneshot
ExecStart=/usr/bin/python3 /proof/guest.py
StandardOutput=journal+console
TimeoutStartSec=infinity
"""

# A shorter time than in the unit.
SOON = "[Service]\nWatchdogSec=5\n"

PAGE = ROOT / "docs" / "how-to" / "systemd.md"

HEARD = re.compile(
    r"last heartbeat \S+ \S+Z from CID 1 on vsock::9000, 1 in all;"
    r" waiting for a heartbeat on vsock::9000"
)

# It plays a VMM and its enclave. In the unit of a daemon, it leaves them in the background.
LAUNCH = """\
#!/bin/sh
[ "$1" != mute ] || exit 7
vmm='nitrohb send --timeout 60 "$NITROHB_LISTEN" && exec sleep infinity'
case $(cat /proc/self/cgroup) in
    *enclave-daemon*) sh -c "$vmm" >/dev/null 2>&1 & ;;
    *) exec sh -c "$vmm" ;;
esac
"""

SCRIPT = """\
#!/opt/nitrohb/bin/python
import sys
from nitrohb.cli import main
sys.exit(main())
"""


def install(directory: Path) -> dict[str, Path | str]:
    """The result of the first commands of the page: a virtual environment, and a link to it.

    The machine has no network, and its processor is too slow to run pip in it.
    """
    packages = directory / "packages"
    uv = (sys.executable, "-m", "uv", "pip", "install", "--quiet", "--target", packages)
    subprocess.run([*uv, "--python-version=3.11", f"{ROOT}[api]"], check=True)
    script = directory / "nitrohb"
    script.write_text(SCRIPT)
    script.chmod(0o755)
    python = directory / "python"
    python.symlink_to("/usr/bin/python3")
    launch = directory / "launch"
    launch.write_text(LAUNCH)
    launch.chmod(0o755)
    link = directory / "link"
    link.symlink_to("/opt/nitrohb/bin/nitrohb")
    return {
        "/opt/nitrohb/pyvenv.cfg": "home = /usr/bin\n",
        "/opt/nitrohb/bin/python": python,
        "/opt/nitrohb/bin/nitrohb": script,
        "/opt/nitrohb/lib/python3.11/site-packages": packages,
        "/usr/local/bin/nitrohb": link,
        "/etc/enclave/launch": launch,
    }


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The facts that guest.py has collected."""
    directory = tmp_path_factory.mktemp("machine")
    base = machine.build(Path(os.environ.get("NITROHB_MACHINE", directory / "base")))
    files: dict[str, Path | str] = {
        **install(tmp_path_factory.mktemp("install")),
        "/proof/deploy": ROOT / "deploy",
        "/proof/systemd.md": PAGE,
        "/proof/monitoring.md": ROOT / "docs" / "how-to" / "monitoring.md",
        "/proof/guest.py": HERE / "guest.py",
        "/etc/systemd/system/proof.service": PROOF,
        "/etc/systemd/system/nitrohb.service.d/soon.conf": SOON,
        "/etc/hostname": "machine\n",
    }
    try:
        report = machine.boot(base, "proof.service", files, directory, timeout=400)
    except subprocess.TimeoutExpired:
        pytest.fail((directory / "console.log").read_text(errors="replace"))
    collected: dict[str, Any] = json.loads(report)
    assert "error" not in collected, json.dumps(collected, indent=1)
    return collected


Facts = dict[str, Any]


def test_before_the_first_connection_systemd_listens_and_nothing_runs(facts: Facts) -> None:
    installed = facts["installed"]
    assert "exit status" not in facts["install"]
    assert installed["nitrohb.socket"]["SubState"] == "listening"
    assert installed["nitrohb.service"]["ActiveState"] == "inactive"


def test_the_byte_that_starts_the_server_is_answered(facts: Facts) -> None:
    assert facts["first byte"] == "b7"
    assert "Started nitrohb.service - Heartbeat server for Nitro Enclaves" in facts["journal"]


def test_the_service_is_active_and_its_status_has_the_last_heartbeat(facts: Facts) -> None:
    service = facts["activated"]
    assert (service["ActiveState"], service["SubState"]) == ("active", "running")
    assert HEARD.fullmatch(service["StatusText"])
    assert "2 in all" in facts["twice"]["StatusText"]


def test_the_process_has_no_privilege(facts: Facts) -> None:
    process = facts["process"]
    (uid,) = {*process["Uid"].split("\t")}
    assert 61184 <= int(uid) <= 65519  # systemd's range of dynamic users
    assert int(process["CapEff"], 16) == int(process["CapBnd"], 16) == 0
    assert process["NoNewPrivs"] == "1"
    assert process["Seccomp"] == "2"  # a filter


def test_systemctl_status_shows_what_the_page_shows(facts: Facts) -> None:
    (shown,) = re.findall(r"```text\b[^\n]*\n(.*?)```", PAGE.read_text(), re.DOTALL)
    lines = [shape(line) for line in shown.splitlines()]
    as_the_first = facts["try"].replace(" 2 in all;", " 1 in all;")  # see "first byte"
    seen = [shape(line) for line in as_the_first.splitlines()]
    assert [line for line in seen if line in lines] == lines
    assert re.match(r"vsock:1:9000 answered in [\d.]+ ms\n", facts["try"])


def shape(line: str) -> str:
    """A line without its times."""
    line = re.sub(r"\b([A-Z]\w\w )?\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?= UTC|Z)", "TIME", line)
    return re.sub(r"; .*? ago$", "; AGO", line)


def test_a_priority_chooses_lines_of_the_journal(facts: Facts) -> None:
    assert facts["wrong byte"] == ""
    (line,) = [line for line in facts["warnings"].splitlines() if " nitro_" in line]
    assert " nitro_rejected address=vsock::9000 cid=1 " in line
    assert " reason=wrong-byte byte=0x00 level=warning" in line
    assert " nitro_heartbeat " in facts["journal"]


def test_a_launcher_claims_a_heartbeat_from_the_interface(facts: Facts) -> None:
    answered, claimed = facts["launch"].splitlines()
    assert answered.startswith("vsock:1:9000 answered in ")
    assert " nitro_heartbeat address=vsock::9000 cid=1 " in claimed
    assert re.search(r"^srw------- ", facts["api files"], re.MULTILINE)


def test_the_metrics_have_a_port(facts: Facts) -> None:
    said = facts["metrics"]
    assert '\nnitrohb_heartbeats_total{address="vsock::9000"} 1.0\n' in said
    assert "exit status" not in said


def test_the_metrics_have_another_port_before_the_network_has_its_address(facts: Facts) -> None:
    said = facts["metrics again"]
    assert '\nnitrohb_heartbeats_total{address="vsock::9000"} 1.0\n' in said
    assert "exit status" not in said
    assert {*facts["metrics addresses"]} == {"127.0.0.1", "10.0.0.5"}


def test_a_group_may_claim_and_others_may_not(facts: Facts) -> None:
    answered, claimed, refused, *_ = facts["group"].splitlines()
    assert answered.startswith("vsock:1:9000 answered in ")
    assert " nitro_heartbeat address=vsock::9000 cid=1 " in claimed
    assert refused.endswith("(EACCES)")


def test_events_have_the_user_of_a_vmm(facts: Facts) -> None:
    beat = r" nitro_heartbeat address=unix:/run/vm4\.vsock_9000 pid=\d+ uid=1234 "
    assert re.search(beat, facts["vm user"])


def test_a_process_that_hangs_is_killed_by_the_watchdog_and_started_again(facts: Facts) -> None:
    assert "nitrohb.service: Watchdog timeout (limit 5s)!" in facts["journal"]
    assert "nitrohb.service: Failed with result 'watchdog'." in facts["journal"]
    before, after = facts["before the hang"], facts["restarted"]
    assert (before["NRestarts"], after["NRestarts"]) == ("0", "1")
    assert after["MainPID"] not in ("0", before["MainPID"])
    assert facts["byte after the hang"] == "b7"


def test_a_stop_is_clean_and_leaves_the_port_open(facts: Facts) -> None:
    service = facts["stopped"]["nitrohb.service"]
    assert (service["ActiveState"], service["Result"]) == ("inactive", "success")
    assert service["ExecMainStatus"] == "143"
    assert not facts["stopped files"]
    assert facts["stopped"]["nitrohb.socket"]["SubState"] == "listening"
    assert facts["byte that starts it again"] == "b7"


def test_one_enclave_is_answered_and_the_unit_has_succeeded(facts: Facts) -> None:
    assert facts["once"].startswith("vsock:1:9000 answered in ")
    log = facts["once ended"]
    assert "Started nitrohb-once@1.service - Boot heartbeat of the Nitro Enclave" in log
    assert " nitro_heartbeat address=vsock::9000 cid=1 " in log
    assert "nitrohb-once@1.service: Deactivated successfully." in log
    assert facts["port after it"] == "ConnectionResetError"


def test_without_its_enclave_the_unit_fails(facts: Facts) -> None:
    unit = facts["no enclave"]
    assert (unit["ActiveState"], unit["Result"]) == ("failed", "exit-code")
    assert unit["ExecMainStatus"] == "124"
    assert "1 came from CID 1, which is not allowed" in facts["why"]


def test_a_unit_whose_vmm_stays_has_started_when_the_enclave_has_booted(facts: Facts) -> None:
    unit = facts["vmm"]
    assert (unit["ActiveState"], unit["SubState"]) == ("active", "running")
    assert "nitro_heartbeat address=hybrid:/run/enclave/web/vsock:9000 " in facts["vmm journal"]
    assert "sleep infinity" in facts["vmm processes"]
    stopped = facts["vmm stopped"]
    assert (stopped["ActiveState"], stopped["Result"]) == ("inactive", "success")


def test_a_unit_whose_launcher_fails_has_failed(facts: Facts) -> None:
    unit = facts["mute"]
    assert (unit["ActiveState"], unit["ExecMainStatus"]) == ("failed", "125")


def test_a_launcher_that_exits_leaves_its_vmm_to_the_unit(facts: Facts) -> None:
    assert facts["daemon"] == "active\n"
    unit = facts["daemon unit"]
    assert (unit["SubState"], unit["ExecMainStatus"]) == ("exited", "0")
    assert "sleep infinity" in facts["daemon processes"]
    assert "sleep infinity" not in facts["processes in the end"]
