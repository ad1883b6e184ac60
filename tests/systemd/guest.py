# SPDX-License-Identifier: Apache-2.0
"""Runs inside the machine: the commands of the page, connections of an enclave, and their results.

This is a service of the systemd there. It collects facts. test_machine.py checks them, and says
what the machine contains.
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from typing import Any

PATIENCE = 120.0  # seconds: on a busy machine, Python takes 20 to start in the emulator
SEND = "nitrohb send --timeout 60"  # the server might have to start first
PAGE = "/proof/systemd.md"
MONITORING = "/proof/monitoring.md"
SERVICE = "nitrohb.service"
ONCE = "nitrohb-once@1.service"

Facts = dict[str, Any]


def main() -> None:
    """Collect the facts, report them, and switch the machine off."""
    facts: Facts = {}
    try:
        collect(facts)
    except Exception as error:  # noqa: BLE001 - the report is the only way to tell
        facts["error"] = repr(error)
        facts["journal"] = output("journalctl", "--no-pager", "-u", "nitrohb*")
    with open("/dev/ttyS1", "w") as report:
        json.dump(facts, report)
    os.sync()
    subprocess.run(["systemctl", "poweroff", "-ff"])


def collect(facts: Facts) -> None:
    """Follow the page, and collect facts at each step."""
    facts["install"] = page("cp deploy/systemd/*.socket")
    facts["installed"] = {unit: show(unit) for unit in ("nitrohb.socket", SERVICE)}
    subprocess.run(["modprobe", "vsock_loopback"], check=True)

    facts["first byte"] = beat().hex()
    facts["activated"] = until(SERVICE, lambda unit: "from CID" in unit["StatusText"])
    facts["process"] = process(facts["activated"])

    facts["try"] = page("modprobe vsock_loopback")
    facts["twice"] = until(SERVICE, lambda unit: "2 in all" in unit["StatusText"])
    facts["launch"] = page("cp -r deploy/systemd/nitrohb.service.d")
    facts["api files"] = output("ls", "-ln", "/run/nitrohb")
    open_metrics(facts)
    facts["group"] = let_a_group_in()

    facts["wrong byte"] = beat(b"\x00").hex()
    subprocess.run(["journalctl", "--sync"], check=True)
    facts["warnings"] = script("journalctl -u nitrohb -p warning")

    facts["before the hang"] = show(SERVICE)
    os.kill(int(facts["before the hang"]["MainPID"]), signal.SIGSTOP)
    facts["restarted"] = until(
        SERVICE, lambda unit: unit["NRestarts"] == "1" and unit["SubState"] == "running"
    )
    facts["byte after the hang"] = beat().hex()

    subprocess.run(["systemctl", "stop", SERVICE], stderr=subprocess.DEVNULL, check=True)
    facts["stopped"] = {unit: show(unit) for unit in ("nitrohb.socket", SERVICE)}
    facts["stopped files"] = os.path.exists("/run/nitrohb")
    facts["byte that starts it again"] = beat().hex()

    facts["once"] = page("systemctl disable --now")
    until(ONCE, lambda unit: unit["SubState"] == "dead")
    facts["once ended"] = output("journalctl", "--no-pager", "-o", "cat", "-u", ONCE)
    facts["port after it"] = beat_refused()
    facts["no enclave"] = once_without_enclave("nitrohb-once@16.service")
    facts["why"] = output("journalctl", "--no-pager", "-o", "cat", "-u", "nitrohb-once@16.service")
    facts["journal"] = output("journalctl", "--no-pager", "-o", "cat", "-u", SERVICE)
    facts["vm user"] = connect_as_vmm()
    launch(facts)


def launch(facts: Facts) -> None:
    """Start enclaves with the units that run a launcher."""
    vmm, mute = "enclave@web.service", "enclave@mute.service"
    daemon = "enclave-daemon@web.service"
    facts["start"] = output("systemctl", "start", vmm)
    facts["vmm"] = show(vmm)
    facts["vmm journal"] = output("journalctl", "--no-pager", "-o", "cat", "-u", vmm)
    facts["vmm processes"] = processes()
    output("systemctl", "stop", vmm)
    facts["vmm stopped"] = show(vmm)
    output("systemctl", "start", mute)
    facts["mute"] = show(mute)
    facts["daemon"] = page("systemctl start enclave-daemon")
    facts["daemon unit"] = show(daemon)
    facts["daemon processes"] = processes()
    output("systemctl", "stop", daemon)
    facts["processes in the end"] = processes()


def processes() -> str:
    """The command lines of all processes."""
    found = ""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline") as file:
            found += file.read().replace("\0", " ") + "\n"
    return found


def page(text: str, path: str = PAGE) -> str:
    """Run the commands of the page that contain this text, and return what they print."""
    return script(block(path, "sh", text))


def script(commands: str) -> str:
    """Run commands of a shell up to the first that fails, and return what they print."""
    return output("bash", "-euo", "pipefail", "-c", commands)


def write_drop_in(unit: str, text: str) -> None:
    """Change a unit as ``systemctl edit`` does."""
    directory = f"/etc/systemd/system/{unit}.d"
    os.mkdir(directory)
    with open(f"{directory}/override.conf", "w") as file:
        file.write(text)
    output("systemctl", "daemon-reload")


def block(path: str, language: str, text: str) -> str:
    """The only block of a page in this language that contains this text."""
    with open(path) as file:
        blocks: list[str] = re.findall(rf"```{language}\b.*?\n(.*?)```", file.read(), re.DOTALL)
    (found,) = [block for block in blocks if text in block]
    return found


def output(*argv: str) -> str:
    """Run a command, and return all that it prints, with its exit status if that is not 0."""
    done = subprocess.run(argv, cwd="/proof", capture_output=True, text=True, timeout=PATIENCE)
    status = f"exit status {done.returncode}\n" if done.returncode else ""
    return done.stdout + done.stderr + status


def show(unit: str) -> dict[str, str]:
    """The properties of a unit that the tests need."""
    names = "ActiveState,SubState,Result,StatusText,NRestarts,MainPID,ExecMainCode,ExecMainStatus"
    lines = output("systemctl", "show", f"--property={names}", unit).splitlines()
    return dict.fromkeys(names.split(","), "") | dict(line.split("=", 1) for line in lines)


def until(unit: str, is_so: Callable[[dict[str, str]], bool]) -> dict[str, str]:
    """Wait until a condition of a unit is true, and return its properties."""
    end = time.monotonic() + PATIENCE
    while not is_so(shown := show(unit)):
        if time.monotonic() > end:
            raise TimeoutError(f"{unit} is {shown}")
        time.sleep(0.2)
    return shown


def beat(byte: bytes = b"\xb7") -> bytes:
    """Act as the init of an enclave: connect, send the byte, wait for the answer."""
    with socket.socket(socket.AF_VSOCK) as sock:
        sock.settimeout(PATIENCE)
        sock.connect((1, 9000))
        sock.sendall(byte)
        return sock.recv(2)


def beat_refused() -> str:
    try:
        beat()
    except OSError as error:
        return type(error).__name__
    return "answered"


def process(unit: dict[str, str]) -> dict[str, str]:
    """Privileges of the service's process, from the kernel."""
    with open(f"/proc/{unit['MainPID']}/status") as file:
        lines = dict(line.rstrip("\n").split(":\t", 1) for line in file)
    return {name: lines[name] for name in ("Uid", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp")}


def let_a_group_in() -> str:
    """Follow the page for a group, and claim a heartbeat as a member and as another user."""
    with open("/etc/systemd/system/nitrohb.service.d/api.conf", "w") as file:
        file.write(block(PAGE, "ini", "Group="))
    member = "setpriv --reuid=nobody --regid=enclaves --clear-groups"
    stranger = "setpriv --reuid=nobody --regid=nogroup --clear-groups"
    return script(
        "groupadd enclaves; systemctl daemon-reload; systemctl restart nitrohb.service;"
        f" {SEND} vsock:1:9000;"
        f" {member} nitrohb wait --cid 1; {stranger} nitrohb wait --cid 1",
    )


def connect_as_vmm() -> str:
    """Listen for a VM as the page says, connect as the user of its VMM, and return the events."""
    write_drop_in("nitrohb.socket", block(PAGE, "ini", "SocketUser=vmm"))
    return script(
        "useradd --uid 1234 vmm; systemctl restart nitrohb.socket;"
        f" setpriv --reuid=vmm --regid=vmm --clear-groups {SEND} unix:/run/vm4.vsock_9000;"
        " systemctl stop nitrohb.socket nitrohb.service; journalctl --sync;"
        " journalctl --no-pager -o cat -u nitrohb.service | grep vm4",
    )


def open_metrics(facts: Facts) -> None:
    """Open the TCP port, as the page about monitoring says, and then another. Scrape after each."""
    opened = page("systemctl enable --now nitrohb-metrics.socket", MONITORING)
    facts["metrics"] = opened + scrape()
    write_drop_in("nitrohb-metrics.socket", block(MONITORING, "ini", "ListenStream="))
    restarted = output("systemctl", "restart", "nitrohb-metrics.socket")
    facts["metrics again"] = restarted + scrape()
    facts["metrics addresses"] = listening_on(9180)
    output("systemctl", "disable", "--now", "nitrohb-metrics.socket")


def listening_on(port: int) -> list[str]:
    """The IPv4 addresses at which a TCP port accepts connections."""
    with open("/proc/net/tcp") as file:
        sockets = [line.split()[1:4:2] for line in file]
    ends = [where.split(":") for where, state in sockets if state == "0A"]
    found = [int(address, 16) for address, number in ends if int(number, 16) == port]
    return [socket.inet_ntoa(address.to_bytes(4, sys.byteorder)) for address in found]


def scrape() -> str:
    with urllib.request.urlopen("http://127.0.0.1:9180/metrics", timeout=PATIENCE) as response:
        text: str = response.read().decode()
    return text


def once_without_enclave(unit: str) -> dict[str, str]:
    """Wait for an enclave that does not boot, while another one connects."""
    write_drop_in(unit, "[Service]\nEnvironment=BOOT_SECONDS=5\n")
    output("systemctl", "start", unit)
    with contextlib.suppress(OSError):
        beat()
    return until(unit, lambda unit: unit["ActiveState"] == "failed")


if __name__ == "__main__":
    main()
