# SPDX-License-Identifier: Apache-2.0
"""The package as a whole: what it exports, and that importing it costs nothing."""

import importlib.metadata
import importlib.resources
import inspect
import subprocess
import sys
import types
import typing
from pathlib import Path

import pytest

import nitrohb


def in_fresh_python(code: str) -> str:
    run = subprocess.run(
        [sys.executable, "-I", "-c", code], check=True, capture_output=True, text=True
    )
    return run.stdout.strip()


def loaded_by(statement: str) -> set[str]:
    """The packages that a statement loads, beside what a fresh interpreter has (say coverage)."""
    code = f"import sys; old = {{*sys.modules}}; {statement}; print(*sys.modules.keys() - old)"
    return {name.partition(".")[0] for name in in_fresh_python(code).split()}


EVENT_LOOPS = {"trio", "anyio", "asyncio"}
EXTRA = {"starlette", "hypercorn", "h11", "prometheus_client", "rich"}


def test_import_loads_no_event_loop_and_no_argument_parser() -> None:
    loaded = loaded_by("import nitrohb")
    assert "nitrohb" in loaded
    assert not loaded & {*EVENT_LOOPS, *EXTRA, "argparse", "socket"}


def test_serving_loads_nothing_of_the_extra() -> None:
    loaded = loaded_by("import nitrohb.cli.serve, nitrohb.server, nitrohb.cli.printing")
    assert "trio" in loaded
    assert not loaded & EXTRA


def test_listening_loads_no_event_loop() -> None:
    """The console script listens before it loads the rest."""
    loaded = loaded_by("from nitrohb import open_listeners")
    assert "nitrohb" in loaded
    assert not loaded & EVENT_LOOPS


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
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-c", LISTENS.format(path=root, sock=sock, args=args)],
        check=True,
        capture_output=True,
        text=True,
    )
    listens, *loaded = run.stdout.split()
    assert listens == "True"
    assert {"nitrohb.listeners", "argparse", "socket"} <= {*loaded}
    assert not {*loaded} & (EVENT_LOOPS | CAN_WAIT)
    own = {name for name in loaded if name.startswith("nitrohb.")}
    assert not own & {"nitrohb.events", "nitrohb.cli.send", "nitrohb.cli.demo", "nitrohb.timeouts"}
    assert not {name for name in own if "api" in name}


def test_the_script_handles_signals_before_it_loads_the_rest() -> None:
    assert not loaded_by("import nitrohb.cli") & {*EVENT_LOOPS, "argparse", "socket"}


def test_a_name_is_looked_up_once() -> None:
    code = (
        "import nitrohb; before = 'HEARTBEAT' in vars(nitrohb); nitrohb.HEARTBEAT;"
        "print(before, 'HEARTBEAT' in vars(nitrohb))"
    )
    assert in_fresh_python(code) == "False True"


@pytest.mark.parametrize("name", nitrohb.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(nitrohb, name)
    if isinstance(value, type | types.FunctionType):
        assert value.__module__.startswith("nitrohb.")
        assert value.__name__ == name
        assert inspect.getdoc(value)
    elif isinstance(value, types.UnionType):
        assert len(typing.get_args(value)) > 1
    else:
        assert name.isupper(), "neither code nor a type nor a constant"


def test_names_are_listed_once() -> None:
    assert len(nitrohb.__all__) == len(set(nitrohb.__all__))


def test_all_star() -> None:
    code = "import nitrohb; from nitrohb import *; print(set(nitrohb.__all__) <= set(dir()))"
    assert in_fresh_python(code) == "True"


@pytest.mark.parametrize("name", ["serve", "trio", "_nothing", "Vanished"])
def test_an_unknown_name(name: str) -> None:
    with pytest.raises(AttributeError, match=f"^module 'nitrohb' has no attribute '{name}'$"):
        getattr(nitrohb, name)


def test_dir_shows_what_has_not_been_loaded_yet() -> None:
    code = "import nitrohb; print({*nitrohb.__all__, '__version__'} <= set(dir(nitrohb)))"
    assert in_fresh_python(code) == "True"


def test_version_is_that_of_the_distribution() -> None:
    assert nitrohb.__version__ == importlib.metadata.version("nitrohb")


def test_type_checkers_may_trust_its_annotations() -> None:
    assert importlib.resources.files("nitrohb").joinpath("py.typed").is_file()
