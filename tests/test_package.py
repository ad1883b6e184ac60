# SPDX-License-Identifier: Apache-2.0
"""The package as a whole: what it exports, and that importing it costs nothing."""

import importlib.metadata
import importlib.resources
import inspect
import json
import subprocess
import sys
import types
import typing
from pathlib import Path

import pytest

import nitrohb

EVENT_LOOPS = {"trio", "anyio", "asyncio"}
EXTRA = {"starlette", "hypercorn", "h11", "prometheus_client"}

STEPS = """
import json, sys
seen = {}
before = {*sys.modules}  # what a fresh interpreter has, say coverage

def see(step):
    seen[step] = [name.partition(".")[0] for name in sys.modules.keys() - before]

import nitrohb
see("the package")
names = {*nitrohb.__all__, "__version__"}
seen["what dir() lacks"] = [*names - {*dir(nitrohb)}]
seen["a name is loaded"] = ["before it is used"] if "HEARTBEAT" in vars(nitrohb) else []
nitrohb.HEARTBEAT
seen["a name is loaded"] += ["after its first use"] if "HEARTBEAT" in vars(nitrohb) else []
import nitrohb.cli
see("the script")
from nitrohb import open_listeners
see("listening")
import nitrohb.cli.serve, nitrohb.server, nitrohb.cli.printing
see("serving")
from nitrohb import *
seen["what * lacks"] = [*names - {*globals()} - {"__version__"}]
print(json.dumps(seen))
"""


def run_python(*args: str) -> str:
    command = [sys.executable, "-I", *args]
    run = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    return run.stdout


def test_each_step_loads_only_what_it_needs() -> None:
    """The script handles signals, then listens, and only then loads an event loop."""
    seen = {step: {*names} for step, names in json.loads(run_python("-c", STEPS)).items()}
    assert "nitrohb" in seen["the package"]
    assert not seen["the package"] & {*EVENT_LOOPS, *EXTRA, "argparse", "socket"}
    assert not seen["the script"] & {*EVENT_LOOPS, "argparse", "socket"}
    assert not seen["listening"] & EVENT_LOOPS
    assert "trio" in seen["serving"]
    assert not seen["serving"] & EXTRA
    assert not seen["what dir() lacks"]
    assert not seen["what * lacks"]
    assert seen["a name is loaded"] == {"after its first use"}


LISTENS = """
import os, sys
sys.path.insert(0, {path!r})

class AtTheRest:
    "Is asked before any module is loaded, and ends it all before what can wait would be."

    def find_spec(self, name, path=None, target=None):
        if name in ("trio", "nitrohb.cli.launch"):
            print(os.path.exists({sock!r}), *sys.modules)
            sys.exit()

sys.meta_path.insert(0, AtTheRest())
from nitrohb.cli import main
main({args!r})
"""

CAN_WAIT = {
    "dataclasses",
    "datetime",
    "importlib",
    "inspect",
    "json",
    "shutil",
    "subprocess",
    "tempfile",
    "typing",
}


@pytest.mark.parametrize(("command", "rest"), [("serve", []), ("run", ["--", "true"])])
def test_the_script_loads_nothing_before_it_listens_that_can_wait(
    command: str, rest: list[str], tmp_path: Path
) -> None:
    root, sock = str(Path(nitrohb.__file__).parents[1]), str(tmp_path / "s")
    args = [command, "--keep", "--quiet", "-l", f"unix:{sock}", *rest]
    # Without site (-S), which may load modules for its own purposes, and coverage for others.
    script = LISTENS.format(path=root, sock=sock, args=args)
    listens, *loaded = run_python("-S", "-c", script).split()
    assert listens == "True"
    assert {"nitrohb.sockets.opening", "argparse", "socket"} <= {*loaded}
    assert not {*loaded} & (EVENT_LOOPS | CAN_WAIT)
    own = {name for name in loaded if name.startswith("nitrohb.")}
    assert not own & {"nitrohb.events", "nitrohb.cli.send", "nitrohb.cli.demo", "nitrohb.timeouts"}
    assert not {name for name in own if "api" in name}


def test_every_public_name_is_there_once_and_documented() -> None:
    assert len(nitrohb.__all__) == len(set(nitrohb.__all__))
    for name in nitrohb.__all__:
        value = getattr(nitrohb, name)
        if isinstance(value, type | types.FunctionType):
            assert value.__module__.startswith("nitrohb."), name
            assert value.__name__ == name
            assert inspect.getdoc(value), name
        elif isinstance(value, types.UnionType):
            assert len(typing.get_args(value)) > 1, name
        else:
            assert name.isupper(), f"{name} is neither code nor a type nor a constant"


def test_an_unknown_name() -> None:
    for name in ("serve", "trio", "_nothing", "Vanished"):
        with pytest.raises(AttributeError, match=f"^module 'nitrohb' has no attribute '{name}'$"):
            getattr(nitrohb, name)


def test_the_version_and_the_types_are_those_of_the_distribution() -> None:
    assert nitrohb.__version__ == importlib.metadata.version("nitrohb")
    assert importlib.resources.files("nitrohb").joinpath("py.typed").is_file()
