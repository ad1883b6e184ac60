# SPDX-License-Identifier: Apache-2.0
"""The sessions that test nitrohb. ``nox`` runs the tests that any machine can run."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nox

sys.path.insert(0, str(Path(__file__).parent))

from tests.enclave import parts as enclave_parts
from tests.systemd import machine
from tests.uml import launcher, newer

nox.needs_version = ">=2025.5"
nox.options.default_venv_backend = "uv"
# Plain "nox" runs the tests that any machine can run, with its own Python.
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
nox.options.sessions = [f"tests-{HERE}"]

PROJECT = nox.project.load_toml("pyproject.toml")
VERSIONS = sorted({"3.11", "3.12", "3.13", "3.14", HERE})

# uv installs only the versions in this file, and checks their hashes. "nox -s lock" renews it. uv
# resolves for every Python at once, and installs a session in a second or two.
LOCK = Path(".ci/lock.txt").resolve()
LOWEST = LOCK.with_name("lowest.txt")
LOCK_NOX = LOCK.with_name("nox.txt")
os.environ |= {"UV_CONSTRAINT": str(LOCK), "UV_BUILD_CONSTRAINT": str(LOCK)}
os.environ["UV_PYTHON_DOWNLOADS"] = "never"
# pip compiles what it installs. uv needs this option, and PYTHONDONTWRITEBYTECODE can prevent a
# later compilation.
os.environ["UV_COMPILE_BYTECODE"] = "1"
# Some tests install nitrohb with pip. It cannot check the hashes of a part of a lock file.
PINS = Path(".nox/constraints.txt").resolve()
PINS.parent.mkdir(exist_ok=True)
PINS.write_text(re.sub(r" \\\n +--hash=\S+", "", LOCK.read_text()))
os.environ |= {"PIP_CONSTRAINT": str(PINS), "PIP_BUILD_CONSTRAINT": str(PINS)}

# Users can meet kernels without a module: one kernel for each set of modules.
KERNELS = {
    launcher.LOOPBACK: ("tests/vsock/loopback", "tests/docs/test_vsock.py"),
    launcher.LOOPBACK[:-1]: ("tests/vsock/without_loopback",),
    (): ("tests/vsock/without_vsock",),
}
NEWER_KERNEL = (
    "tests/vsock/namespaces",
    "tests/vsock/loopback/test_server.py::test_init_is_answered_on_the_default_address",
    "tests/vsock/loopback/test_server.py::test_a_wrong_byte_is_refused_and_the_next_one_answered",
)
# Tests of guests, containers and other programs need time, and their order, as they share fixtures.
SLOW = ("-p", "no:randomly", "--timeout=800", "-o", "faulthandler_timeout=900")
IN_GUESTS = ("-p", "no:cacheprovider", *SLOW)
CONTAINERS = "catatonit curl iproute2 mmdebstrap podman runc util-linux"

# Go checks its hash. Its package for Python would download a binary that no lock knows.
ACTIONLINT = "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12"

# The programs that the tests of systemd need, and their Debian packages.
SYSTEMD = {"systemd-analyze": "systemd", "systemd-socket-activate": "systemd"}


def pythons() -> list[str]:
    """Return the versions of Python on this machine that nitrohb supports."""
    if shutil.which("pyenv"):  # its python3.x commands need the list of versions
        found = subprocess.run(["pyenv", "versions", "--bare"], capture_output=True, text=True)
        os.environ.setdefault("PYENV_VERSION", ":".join([*found.stdout.split(), "system"]))
    return [version for version in VERSIONS if version == HERE or works(f"python{version}")]


def works(python: str) -> bool:
    if not shutil.which(python):
        return False
    return subprocess.run([python, "-c", ""], capture_output=True).returncode == 0


def install(session: nox.Session, *groups: str, lock: Path | None = LOCK) -> None:
    """Install the wheel of nitrohb, as a user would, and some dependency groups."""
    env = {"UV_CONSTRAINT": str(lock)} if lock else {"UV_CONSTRAINT": "", "UV_BUILD_CONSTRAINT": ""}
    session.install(*nox.project.dependency_groups(PROJECT, *groups), ".[api]", env=env)


@nox.session
def lock(session: nox.Session) -> None:
    """Write the newest versions into the lock files. ``-- --check`` only compares."""
    session.install(*nox.project.dependency_groups(PROJECT, "nox"))
    every = [f"--group={group}" for group in PROJECT["dependency-groups"]]
    newest = ["--all-extras", *every, "pyproject.toml"]
    compile_lock(session, LOCK, *newest)
    compile_lock(session, LOCK_NOX, "--group=nox", f"--constraints={LOCK}")
    lowest = ["--all-extras", "--group=tests", "pyproject.toml"]
    # Resolve the lowest versions again for "--check" too, because it would keep higher ones.
    project = PROJECT["project"]
    direct = [*project["dependencies"], *nox.project.dependency_groups(PROJECT, "tests")]
    direct += project["optional-dependencies"]["api"]
    names = [re.split(r"[^\w-]", each)[0] for each in direct]
    lowest += [f"--upgrade-package={name}" for name in names]
    compile_lock(session, LOWEST, "--resolution=lowest-direct", *lowest)


def compile_lock(session: nox.Session, path: Path, *what: str) -> None:
    """Write one lock file, or compare it with pyproject.toml."""
    check = "--check" in session.posargs
    out = Path(session.create_tmp()).resolve() / path.name
    how = [] if check else ["--upgrade"]
    if check:  # keep the versions in the file that pyproject.toml allows
        shutil.copy(path, out)
    how += ["--quiet", "--universal", "--python-version=3.11", "--generate-hashes"]
    how += ["--no-annotate", "--no-header", f"--output-file={out}"]
    env = {"UV_CONSTRAINT": "", "UV_BUILD_CONSTRAINT": ""}
    session.run("uv", "pip", "compile", *how, *what, env=env)
    if not check:
        shutil.copy(out, path)
    elif out.read_text() != path.read_text():
        session.error(f"{path.name} does not match pyproject.toml\nRenew it: nox -s lock")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, formatting, imports between modules, and the release workflow."""
    session.install(*nox.project.dependency_groups(PROJECT, "lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports", "--no-cache", env={"PYTHONPATH": "src"})
    session.run("zizmor", "--offline", "--persona=auditor", ".github")
    session.run("go", "install", ACTIONLINT, env={"GOBIN": session.bin})
    session.run("actionlint")


@nox.session
def typing(session: nox.Session) -> None:
    """Check types with mypy and pyright."""
    install(session, "typing")
    session.run("mypy")
    session.run("pyright")


@nox.session(python=pythons())
def tests(session: nox.Session) -> None:
    """Run the tests that any machine can run, on the built wheel, on every core."""
    install(session, "tests")
    session.run("pytest", "-n", "auto", *session.posargs)


@nox.session
def lowest(session: nox.Session) -> None:
    """Run the tests with the lowest versions of all dependencies."""
    install(session, "tests", lock=LOWEST)
    session.run("pytest", "-n", "auto", *session.posargs)


@nox.session
def latest(session: nox.Session) -> None:
    """Run the tests with the newest versions of all dependencies, without the lock file."""
    install(session, "tests", lock=None)
    session.run("pytest", "-n", "auto", *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """Check that the tests cover every branch of the source."""
    install(session, "tests")
    data = Path(session.virtualenv.location).resolve() / "data"
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir()
    env = {"COVERAGE_FILE": str(data / "coverage")}
    session.run("coverage", "run", "-m", "pytest", "-n", "auto", *session.posargs, env=env)
    session.run("coverage", "combine", env=env)
    session.run("coverage", "report", env=env)


@nox.session
def thorough(session: nox.Session) -> None:
    """Run the property-based tests with 100,000 random examples in all."""
    install(session, "tests")
    how = ("-n", "auto", "-m", "hypothesis", "--hypothesis-profile=thorough")
    limits = ("--timeout=1500", "-o", "faulthandler_timeout=1800")
    session.run("pytest", *how, *limits, *session.posargs)


@nox.session
def vsock(session: nox.Session) -> None:
    """Run the tests that need a real AF_VSOCK, in kernels that they boot.

    Some need Linux 7 from Debian sid. ``NITROHB_KERNEL=sid`` runs all of them in that kernel.
    """
    if launcher.find_kernel() is None:
        session.error(launcher.MISSING)
    install(session, "tests")
    sid = bring_sid(session)
    usual = sid if os.environ.get("NITROHB_KERNEL") == newer.SUITE else {}
    env = {
        "HYPOTHESIS_STORAGE_DIRECTORY": "/run/hypothesis",
        "NITROHB_ENCLAVE": compile_enclave(session),
    }
    pytest = ["python", "-m", "pytest", *IN_GUESTS, "--timeout=100"]  # a kernel ends after 300 s
    for modules, tests in KERNELS.items():
        command = [*in_uml(modules, env), *pytest, *tests, *session.posargs]
        session.run("python", *command, env=usual)
    command = [*in_uml(launcher.LOOPBACK, env), *pytest, *NEWER_KERNEL, *session.posargs]
    session.run("python", *command, env=sid)


def bring_sid(session: nox.Session) -> dict[str, str]:
    """Download the kernel of Debian sid. Return an environment in which it comes first."""
    demand(session, "patchelf", "patchelf")
    directory = Path(".nox/uml-sid").resolve()
    session.run("python", "-m", "tests.uml.newer", str(directory))
    return {"PATH": os.pathsep.join([str(directory / "usr/bin"), os.environ["PATH"]])}


@nox.session
def uml(session: nox.Session) -> None:
    """Test the launcher of the kernels, which protects the machine that runs the tests."""
    if launcher.find_kernel() is None:
        session.error(launcher.MISSING)
    install(session, "tests")
    session.run("pytest", "-n", "auto", "tests/uml", *session.posargs)


@nox.session
def floods(session: nox.Session) -> None:
    """Flood servers on Unix sockets, and launch many enclaves at once."""
    install(session, "tests")
    session.run("pytest", *SLOW, "tests/floods", *session.posargs)


@nox.session
def prometheus(session: nox.Session) -> None:
    """Test the metrics of a server with a real Prometheus."""
    demand(session, "prometheus", "prometheus")
    install(session, "tests")
    session.run("pytest", *SLOW, "tests/proofs/test_prometheus.py", *session.posargs)


@nox.session
def deploy(session: nox.Session) -> None:
    """Test deploy/: alerts and dashboard with Prometheus, image and pod with Podman."""
    demand(session, "prometheus", "prometheus")
    for program in ("podman", "runc", "mmdebstrap", "curl", "nsenter", "ip"):
        demand(session, program, CONTAINERS)
    for program, package in SYSTEMD.items():
        demand(session, program, package)
    if os.geteuid() != 0:
        session.error("cannot build and run deploy/container\nRun this session as root.")
    install(session, "tests", "deploy")
    # The containers come first: they fail at once if port 9000 of AF_VSOCK is taken.
    proofs = ("tests/proofs/test_containers.py", "tests/proofs/test_monitoring.py")
    session.run("pytest", *SLOW, *proofs, *session.posargs)


@nox.session
def schemathesis(session: nox.Session) -> None:
    """Compare the HTTP interface with its OpenAPI document, with Schemathesis."""
    install(session, "tests", "schemathesis")
    session.run("pytest", *SLOW, "tests/proofs/test_schemathesis.py", *session.posargs)


@nox.session
def journal(session: nox.Session) -> None:
    """Test the priorities of log lines with a real systemd-journald."""
    demand(session, "journalctl", "systemd")
    demand(session, "unshare", "util-linux")
    install(session, "tests")
    session.run("pytest", *SLOW, "tests/proofs/test_journal.py", *session.posargs)


@nox.session
def browser(session: nox.Session) -> None:
    """Test the page of a server in a real browser. ``-- --write`` renews docs/page.png."""
    demand(session, "chromium", "chromium chromium-driver")
    demand(session, "chromedriver", "chromium chromium-driver")
    install(session, "tests", "browser")
    pictures = Path(session.virtualenv.location).resolve() / "pictures"
    env = {"NITROHB_PICTURES": str(pictures)}
    options = [option for option in session.posargs if option != "--write"]
    session.run("pytest", *SLOW, "tests/proofs/test_browser.py", *options, env=env)
    session.log(f"the pictures are in {pictures}")
    if "--write" in session.posargs:
        shutil.copy(pictures / "page.png", "docs/page.png")


@nox.session
def enclave(session: nox.Session) -> None:
    """Boot guests in QEMU whose init sends its heartbeat over a real virtio-vsock device.

    ``NITROHB_KERNEL=trixie`` or ``trixie-backports`` boots them with a newer kernel.
    """
    install_programs(session, enclave_parts.PROGRAMS, enclave_parts.KERNEL)
    install(session, "tests")
    env = {
        "NITROHB_PARTS": str(make_enclave_parts(session).directory),
        "NITROHB_KERNEL": os.environ.get("NITROHB_KERNEL", ""),
        "HYPOTHESIS_STORAGE_DIRECTORY": "/run/hypothesis",
    }
    scratch = Path(".nox/enclave-scratch").resolve()
    scratch.mkdir(parents=True, exist_ok=True)
    pytest = ["python", "-m", "pytest", *IN_GUESTS]
    contained = [*enclave_parts.contained(scratch), *pytest, f"--basetemp={scratch}/tests"]
    # Two workers: each boots its own parent.
    on_host = [*contained, "-n2", "--dist=worksteal"]
    if session.posargs:
        session.run(*on_host, *session.posargs, env=env, external=True)
        return
    in_loopback = ["python", *in_uml(launcher.LOOPBACK, env, "--mem=1G", "--timeout=600")]
    on_vsock = [*enclave_parts.with_parent("TERM"), *in_loopback, *pytest, "--timeout=200"]
    on_vsock += ["--basetemp=/run/tests", "tests/enclave", "-m", "vsock"]
    with ThreadPoolExecutor() as beside:  # each half mostly waits
        half = beside.submit(session.run, *on_vsock, external=True, silent=True)
        session.run(*on_host, "tests/enclave", "-m", "not vsock", env=env, external=True)
        session.log(half.result())


def make_enclave_parts(session: nox.Session) -> enclave_parts.Parts:
    """Download and build the parts of the guests. Slow parts are kept for the next run."""
    parts = enclave_parts.Parts(Path(".nox/enclave-parts").resolve())
    parts.directory.mkdir(parents=True, exist_ok=True)
    crates = [f"{name}@{version}" for name, version in enclave_parts.CRATES.items()]
    session.run(
        *("cargo", "install", "--locked", "--root", str(parts.directory), *crates),
        "--config=profile.release.package.sha2.opt-level=3",  # a hash would take as long as a boot
        env={"CARGO_PROFILE_RELEASE_OPT_LEVEL": "0"},  # compiles in half the time
        external=True,
    )
    shutil.rmtree(parts.nitrohb, ignore_errors=True)
    python = f"--python-version={enclave_parts.PYTHON}"
    session.run("uv", "pip", "install", "--quiet", python, f"--target={parts.nitrohb}", ".[api]")
    session.run("python", "-m", "tests.enclave.parts", str(parts.directory))
    return parts


def install_programs(session: nox.Session, programs: dict[str, str], known: str) -> None:
    """Install the Debian packages of missing programs. Update the package lists if needed."""
    if not shutil.which("apt-get"):
        session.error("this session needs Debian packages, but there is no apt-get")
    sudo = [] if os.geteuid() == 0 else ["sudo"]
    packages = [names for program, names in programs.items() if not shutil.which(program)]
    is_known = subprocess.run(["apt-cache", "show", known], capture_output=True).returncode == 0
    if packages or not is_known:
        session.run(*sudo, "apt-get", "update", "-q", external=True)
    if packages:
        install = [*sudo, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-q", "-y"]
        names = " ".join(packages).split()
        session.run(*install, "--no-install-recommends", *names, external=True)


@nox.session
def systemd(session: nox.Session) -> None:
    """Check the units with the programs of systemd, and boot a systemd that runs them."""
    for program, package in {**SYSTEMD, **machine.PROGRAMS}.items():
        demand(session, program, package)
    install(session, "tests", "nox")
    env = {"NITROHB_MACHINE": str(Path(".nox/systemd-machine").resolve())}  # kept for the next run
    session.run("pytest", *SLOW, "tests/systemd", *session.posargs, env=env)


@nox.session
def docs(session: nox.Session) -> None:
    """Run the examples of the documentation, build its site, and check the site."""
    demand(session, "curl", "curl")
    install(session, "tests", "docs")
    site = Path(session.virtualenv.location).resolve() / "site"
    shutil.rmtree(site, ignore_errors=True)
    strict = ("--fail-on-warning", "--keep-going", "--nitpicky", "--fresh-env", "--quiet")
    session.run("sphinx-build", *strict, "docs", str(site))
    env = {"NITROHB_SITE": str(site)}
    tests = ("tests/pages", "tests/docs", "tests/proofs/test_site.py")
    session.run("pytest", "-n", "auto", *tests, *session.posargs, env=env)
    session.log(f"the site is in {site}: begin with index.html")


@nox.session
def bench(session: nox.Session) -> None:
    """Time nitrohb beside alternatives, in some minutes. See bench/run.py."""
    session.install(".[api]")
    session.run("python", "bench/run.py", *session.posargs)


@nox.session
def generate(session: nox.Session) -> None:
    """Write what is made from the code: completions, the man page, tables and the Python API."""
    install(session, "generate")
    session.run("python", "deploy/packaging/generate.py")


@nox.session
def completions(session: nox.Session) -> None:
    """Test completion in real shells, and the man page with its formatters."""
    for program in ("bash", "zsh", "fish", "groff", "mandoc"):
        demand(session, program, "bash fish groff mandoc zsh")
    install(session, "tests", "tab")
    session.run("pytest", *SLOW, "tests/proofs/test_completions.py", *session.posargs)


@nox.session
def release(session: nox.Session) -> None:
    """Build and check what is published: wheel, sdist, nitrohb.pyz and checksums, in dist/.

    ``-- v0.1.0`` fails if this tag does not match the version and the changelog.
    """
    install(session, "release", "nox")
    session.run("python", "-m", "deploy.packaging.release", *session.posargs)
    session.run("validate-pyproject", "pyproject.toml")
    shutil.rmtree("dist", ignore_errors=True)
    session.run("python", "-m", "build", "--no-isolation")
    found = pythons()
    session.run("python", "deploy/packaging/zipapp.py", *(f"--python=python{it}" for it in found))
    with session.chdir("dist"), open("SHA256SUMS", "w") as sums:
        files = sorted({*os.listdir()} - {sums.name})
        session.run("sha256sum", *files, stdout=sums, external=True)
    proofs = (f"tests/proofs/test_{name}.py" for name in ("release", "distributions", "zipapp"))
    session.run("pytest", *SLOW, *proofs, env={"NITROHB_PYTHONS": " ".join(found)})


def demand(session: nox.Session, program: str, packages: str) -> None:
    """Fail if a program is missing, and name its Debian packages."""
    if shutil.which(program) is None:
        session.error(f"{program} is missing: apt-get install --no-install-recommends {packages}")


def in_uml(modules: Sequence[str], env: dict[str, str], *more: str) -> list[str]:
    """Return arguments for Python that run a command in a kernel with some modules."""
    options = [f"--modules={','.join(modules)}", *more]
    options += [f"--env={name}={value}" for name, value in env.items()]
    return ["-m", "tests.uml.launcher", *options, "--"]


def compile_enclave(session: nox.Session) -> str:
    """Compile a client that behaves like the init of an enclave."""
    demand(session, "cc", "gcc libc6-dev")
    program = Path(session.virtualenv.location) / "enclave"
    source = "tests/vsock/enclave.c"
    session.run(
        "cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(program), source, external=True
    )
    return str(program.resolve())
