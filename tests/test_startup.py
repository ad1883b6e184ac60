# SPDX-License-Identifier: Apache-2.0
"""When modules are loaded: none by ``import nitrohb``, and few before the command listens."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import nitrohb

BEFORE_THE_LISTEN = {
    *("nitrohb", "nitrohb.errors", "nitrohb.addresses", "nitrohb.protocol", "nitrohb.remedies"),
    *("nitrohb.sockets", "nitrohb.sockets.activation", "nitrohb.sockets.listener"),
    *("nitrohb.sockets.opening", "nitrohb.sockets.unixfile", "nitrohb.sockets.syscalls"),
    *("nitrohb.cli", "nitrohb.cli.exit_codes", "nitrohb.cli.options", "nitrohb.cli.output"),
    *("nitrohb.cli.parser", "nitrohb.cli.serve", "nitrohb.cli.settings", "nitrohb.cli.signals"),
    "nitrohb.cli.values",
}
"""The modules that are loaded before the script listens: all others can wait."""

# Modules that load slowly. None is needed before the command listens.
SLOW = {
    *("dataclasses", "datetime", "importlib", "inspect", "ipaddress", "json", "random", "shutil"),
    *("subprocess", "tempfile", "typing", "asyncio", "trio", "anyio"),
}
THIRD_PARTY = {"trio", "anyio", "starlette", "hypercorn", "h11", "prometheus_client"}

LOADED = """
import sys
sys.path.insert(0, {path!r})
before = {{*sys.modules}}
{code}
print(*({{*sys.modules}} - before))
"""

LISTENS = """
import os

class AtTheRest:
    "Is asked before each module is loaded, and ends the script before the first that can wait."

    def find_spec(self, name, path=None, target=None):
        if name in ("nitrohb.cli.answer", "nitrohb.cli.supervise"):
            print(os.path.exists({sock!r}), *({{*sys.modules}} - before))
            sys.exit()

sys.meta_path.insert(0, AtTheRest())
from nitrohb.cli import main
main({args!r})
"""


def run_python(code: str) -> list[str]:
    """Run code in an interpreter that has loaded nothing else, and return the words it prints."""
    path = str(Path(nitrohb.__file__).parents[1])
    # Without site (-S), which can load other modules, and without coverage.
    command = [sys.executable, "-I", "-S", "-c", LOADED.format(path=path, code=code)]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=60
    ).stdout.split()


@pytest.mark.parametrize(
    ("command", "rest", "more"),
    [
        ("serve", [], set[str]()),
        (
            "serve",
            ["--timeout", "auto", "--memory", "1", "--eif"],
            {"nitrohb.arguments", "nitrohb.timeouts"},
        ),
        ("run", ["--", "true"], {"nitrohb.cli.run"}),
    ],
)
def test_what_is_loaded_before_the_script_listens(
    command: str, rest: list[str], more: set[str], tmp_path: Path
) -> None:
    sock, image = str(tmp_path / "s"), tmp_path / "x.eif"
    image.write_bytes(b".eif")
    more_args = [*rest, str(image)] if rest[-1:] == ["--eif"] else rest
    args = [command, "--keep", "--quiet", "-l", f"unix:{sock}", *more_args]
    listens, *loaded = run_python(LISTENS.format(sock=sock, args=args))
    assert listens == "True"
    own = {name for name in loaded if name.startswith("nitrohb")}
    assert own == BEFORE_THE_LISTEN | more
    assert not SLOW & {*loaded}


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_the_help_and_the_version_load_no_command(option: str) -> None:
    code = f"from nitrohb.cli import main\ntry: main([{option!r}])\nexcept SystemExit: pass"
    own = {name for name in run_python(code) if name.startswith("nitrohb.")}
    cli = {f"nitrohb.cli{name}" for name in ("", ".exit_codes", ".output", ".parser", ".signals")}
    assert own == {"nitrohb.errors"} | cli


def test_wait_loads_neither_an_event_loop_nor_events() -> None:
    code = "import nitrohb.cli.parser, nitrohb.cli.wait"
    loaded = {*run_python(code)}
    assert not loaded & (THIRD_PARTY | {"asyncio", "http.client", "dataclasses", "nitrohb.events"})


def test_importing_nitrohb_costs_nothing() -> None:
    loaded = {*run_python("import nitrohb")}
    assert {name for name in loaded if name.startswith("nitrohb")} == {"nitrohb"}
    assert not loaded & SLOW


STEPS = """
import json
import nitrohb
names = {*nitrohb.__all__, "__version__"}
lacks = [*names - {*dir(nitrohb)}]
early = "HEARTBEAT" in vars(nitrohb)
nitrohb.HEARTBEAT
late = "HEARTBEAT" in vars(nitrohb)
from nitrohb import *
lacks += [*names - {*globals()} - {"__version__"}]
print(json.dumps([lacks, early, late, [name for name in sys.modules if "." not in name]]))
sys.exit()
"""


def test_a_public_name_is_loaded_when_it_is_first_used() -> None:
    command = [sys.executable, "-I", "-c", LOADED.format(path="", code=STEPS)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    lacks, early, late, loaded = json.loads(done.stdout)
    assert (lacks, early, late) == ([], False, True)
    assert not {*loaded} & (THIRD_PARTY - {"trio", "anyio"})
