# SPDX-License-Identifier: Apache-2.0
"""Podman and runc build the image of deploy/ and run the pod of its DaemonSet. Needs root.

It uses no image registry: the test builds a base image from Debian with Python.
"""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from tests.cli.process import HEARTBEAT, NITROHB, beat
from tests.docs.examples import example
from tests.support import child

from .serving import until

ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "deploy/kubernetes/nitrohb.yaml"
PAGE = ROOT / "docs/how-to/containers.md"
PROFILE = ROOT / "deploy/seccomp/nitrohb.json"
RESOURCES: list[dict[str, Any]] = list(yaml.safe_load_all(MANIFEST.read_text()))
MEMORY = "/dev/shm"  # dpkg syncs after each file, and is twice as fast there
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
POD_IP = "10.0.0.5"
IMAGE = "localhost/nitrohb:latest"
# runc works with every layout of control groups. Not every machine allows higher limits.
CONFIGURATION = """
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
"""


class Podman:
    """Podman with its own storage."""

    def __init__(self, directory: Path) -> None:
        (directory / "containers.conf").write_text(CONFIGURATION)
        self._env = {**os.environ, "CONTAINERS_CONF": str(directory / "containers.conf")}
        self._command = (
            "podman",
            f"--root={directory / 'root'}",
            f"--runroot={directory / 'run'}",
            f"--tmpdir={directory / 'tmp'}",
        )

    def __call__(self, *args: object) -> "subprocess.CompletedProcess[bytes]":
        command = [*self._command, *map(str, args)]
        return subprocess.run(command, capture_output=True, cwd=ROOT, env=self._env, timeout=300)

    @contextmanager
    def started(self, *args: str, passing: socket.socket) -> Generator[None]:
        """Run it with a socket passed in, as systemd does."""
        fd = passing.fileno()
        shell = f'export LISTEN_FDS=1 LISTEN_PID=$$; exec "$@" 3<&{fd}'
        command = ["bash", "-c", shell, "bash", *self._command, *args]
        with child(command, cwd=ROOT, env=self._env, pass_fds=[fd]) as process:
            try:
                yield
            finally:
                process.terminate()
                process.wait(60)

    def must(self, *args: object) -> str:
        done = self(*args)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()


def page(test: str) -> str:
    return example("how-to/containers.md", f"tests/proofs/test_containers.py::{test}")


def shown(test: str) -> list[str]:
    """The arguments for Podman that the page shows."""
    program, *args = shlex.split(page(test).replace("\\\n", ""))
    assert program == "podman"
    return args


def demand_port(port: int) -> None:
    """End the run if an AF_VSOCK port is taken: containers share those of the machine."""
    with socket.socket(socket.AF_VSOCK) as listening:
        try:
            listening.bind((socket.VMADDR_CID_ANY, port))
        except OSError as error:
            what = f"port {port} of AF_VSOCK must be free here for the containers"
            who = "`nitrohb doctor` says who has it"
            pytest.exit(f"{what}, but: {error.strerror}; {who}", returncode=1)


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Generator[Podman]:
    """Podman, which has the image of deploy/container."""
    demand_port(9000)
    directory = tmp_path_factory.mktemp("podman")
    base = directory / "base.tar"
    packages = "--include=python3,python3-venv,ca-certificates"
    make = ["mmdebstrap", "--quiet", "--variant=minbase", packages, "bookworm", str(base)]
    env = os.environ | {"TMPDIR": MEMORY} if shutil.disk_usage(MEMORY).free > 2**30 else None
    made = subprocess.run(make, capture_output=True, text=True, env=env)
    assert made.returncode == 0, made.stderr
    podman = Podman(directory)
    podman.must("import", "--quiet", base, "localhost/base:proof")
    base.unlink()
    # pip in the image uses the index and the certificates of this machine's pip.
    told = [Path("/etc/pip.conf"), Path("/etc/ssl/certs"), Path(os.environ["PIP_CONSTRAINT"])]
    volumes = [f"--volume={path}:{path}:ro" for path in told if path.exists()]
    # So a new release of a dependency cannot break this.
    volumes += [f"--env={name}={told[-1]}" for name in ("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT")]
    options = ("--network=host", "--isolation=chroot", "--build-arg=BASE=localhost/base:proof")
    verb, *rest = shown("podman")
    podman.must(verb, *options, *volumes, *rest)
    try:
        yield podman
    finally:
        podman("pod", "rm", "--all", "--force")
        podman("rm", "--all", "--force", "--time=1")
        podman("rmi", "--all", "--force")


def test_the_schemas_of_kubernetes_allow_it() -> None:
    for version in ("1.30", "1.37"):
        for resource in RESOURCES:
            kubernetes_validate.validate(resource, version, strict=True)


def the(kind: str) -> dict[str, Any]:
    (resource,) = (of for of in RESOURCES if of["kind"] == kind)
    return resource


def test_facts_that_the_schemas_do_not_check() -> None:
    daemonset, policy = the("DaemonSet")["spec"], the("NetworkPolicy")["spec"]
    template = daemonset["template"]
    labels, pod = template["metadata"]["labels"], template["spec"]
    assert daemonset["selector"]["matchLabels"].items() <= labels.items()
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    assert {of["metadata"].get("namespace") for of in RESOURCES[1:]} == {
        the("Namespace")["metadata"]["name"]
    }

    profile = pod["securityContext"]["seccompProfile"]
    assert profile["type"] == "Localhost"
    assert f"/var/lib/kubelet/seccomp/{profile.get('localhostProfile')}`" in PAGE.read_text()

    (container,) = pod["containers"]
    (listening,) = (at for at in container["args"] if at.startswith("--api="))
    port = int(listening.rpartition(":")[2])
    assert [of["containerPort"] for of in container["ports"]] == [port]
    assert [of["port"] for of in policy["ingress"][0]["ports"]] == [port]
    assert template["metadata"]["annotations"]["prometheus.io/port"] == str(port)
    for name in PROBES:
        assert container[name]["httpGet"]["port"] == port
    for quantities in container["resources"].values():
        for quantity in quantities.values():
            assert re.fullmatch(r"\d+(\.\d+)?(m|[kMGTPE]|[KMGTPE]i)?", str(quantity)), quantity


def pod_of_the_daemonset() -> dict[str, Any]:
    """The pod of the manifest, except for its image, and for ports that would need a bridge."""
    template: dict[str, Any] = deepcopy(the("DaemonSet")["spec"]["template"])
    template["metadata"]["name"] = "proof"
    (container,) = template["spec"]["containers"]
    container.update(image=IMAGE, imagePullPolicy="Never")
    del container["ports"]
    return {"apiVersion": "v1", "kind": "Pod", **template}


@contextmanager
def running_pod(podman: Podman, directory: Path) -> Generator[dict[str, Any]]:
    """Run the pod in a separate network. Yields what Podman says about its container."""
    profiles = directory / "profiles"
    profiles.mkdir()
    (profiles / "nitrohb.json").write_text(PROFILE.read_text())
    manifest = directory / "pod.yaml"
    manifest.write_text(json.dumps(pod_of_the_daemonset()))
    play = ("play", "kube", "--network=none", f"--seccomp-profile-root={directory}", manifest)
    podman.must(*play)
    try:
        yield json.loads(podman.must("inspect", "proof-nitrohb"))[0]
    finally:
        podman("play", "kube", "--down", manifest)


def test_the_pod_listens_and_answers_the_kubelet(podman: Podman, tmp_path: Path) -> None:
    with running_pod(podman, tmp_path) as container:
        pid = container["State"]["Pid"]
        it_has_no_privilege(pid)
        assert container["HostConfig"]["ReadonlyRootfs"]

        inside = ["nsenter", "--net", f"--target={pid}"]
        subprocess.run([*inside, *f"ip addr add {POD_IP}/32 dev lo".split()], check=True)
        (described,) = the("DaemonSet")["spec"]["template"]["spec"]["containers"]
        for name in PROBES:
            probe = described[name]["httpGet"]
            url = f"http://{POD_IP}:{probe['port']}{probe['path']}"
            until(lambda url=url: curl(inside, url)[0], "200")  # type: ignore[misc]
        _, ready = curl(inside, f"http://{POD_IP}:9180/readyz")
        assert json.loads(ready)["listeners"] == [{"address": "vsock::9000", "listening": True}]
        assert curl(inside, f"http://{POD_IP}:9180/readyz", "-HHost: evil.example")[0] == "421"

        program, *args = shlex.split(page("test_the_pod_listens_and_answers_the_kubelet"))
        assert program == "nitrohb"
        wait = [*inside, *NITROHB, *args, "--timeout=0.1"]
        done = subprocess.run(wait, capture_output=True)
        assert done.returncode == 124
        assert b"CID 16" in done.stderr
        podman.must("stop", "--time=10", "proof-nitrohb")
        assert podman.must("inspect", "--format={{.State.ExitCode}}", "proof-nitrohb") == "143\n"


def it_has_no_privilege(pid: int) -> None:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines)
    assert status["Uid"].split() == ["65532"] * 4
    assert (status["CapEff"], status["CapBnd"], status["NoNewPrivs"]) == ("0" * 16, "0" * 16, "1")
    assert (status["Seccomp"], status["Seccomp_filters"]) == ("2", "1")


def curl(inside: list[str], url: str, *options: str) -> tuple[str, str]:
    """Send a request as the kubelet does. Return status (``000``: nothing listens) and body."""
    command = [*inside, "curl", "-sS", "-A", "kube-probe/1.37", "-w", "\n%{http_code}", url]
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    body, _, status = done.stdout.rpartition("\n")
    return status, body


# Without no-new-privileges the runtime installs the filter earlier, and more of it must pass.
@pytest.mark.parametrize("is_hardened", [True, False])
def test_the_profile_is_enough_for_a_runtime(podman: Podman, is_hardened: bool) -> None:
    done = run(podman, PROFILE, is_hardened=is_hardened)
    assert (done.returncode, b'"address": "vsock::9000"' in done.stdout) == (124, True), done


def test_without_af_vsock_in_the_profile_it_says_why(podman: Podman, tmp_path: Path) -> None:
    rules = json.loads(PROFILE.read_text())
    rules["syscalls"] = [
        of for of in rules["syscalls"] if [arg["value"] for arg in of.get("args", [])] != [40]
    ]
    rules["defaultErrnoRet"] = 1  # EPERM, as the default profiles say
    profile = tmp_path / "without.json"
    profile.write_text(json.dumps(rules))
    done = run(podman, profile)
    assert done.returncode == 1
    assert b"AF_VSOCK is not permitted here" in done.stderr
    assert b"seccomp" in done.stderr


def run(
    podman: Podman, profile: Path, *, is_hardened: bool = True
) -> "subprocess.CompletedProcess[bytes]":
    """Run the command of the page for a second, with a given profile and without a network."""
    verb, *args = shown("test_the_profile_is_enough_for_a_runtime")
    args[args.index("seccomp=deploy/seccomp/nitrohb.json")] = f"seccomp={profile}"
    if not is_hardened:
        at = args.index("no-new-privileges")
        del args[at - 1 : at + 1]
    return podman(verb, "--network=none", *args, "--format=json", "--timeout=1")


def test_a_socket_is_passed_on(podman: Podman, tmp_path: Path) -> None:
    verb, *args = shown("test_a_socket_is_passed_on")
    path = tmp_path / "hb"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        with podman.started(verb, "--network=none", *args, "--timeout=60", passing=listening):
            assert beat(path) == HEARTBEAT
