# SPDX-License-Identifier: Apache-2.0
"""The Python API: public names are documented where they live, and each of them must be."""

import sys
from typing import Any

from sphinx.errors import ExtensionError
from sphinx.pycode import ModuleAnalyzer

import nitrohb

__all__ = ["setup"]


def setup(app: Any) -> None:
    """Help autodoc with names that are loaded when they are first used."""
    app.connect("autodoc-process-docstring", _describe_variable)
    app.connect("autodoc-process-signature", _hide_constructor)
    app.connect("env-check-consistency", _check_complete)


def _describe_variable(
    _app: Any, what: str, full_name: str, _value: Any, _options: Any, lines: list[str]
) -> None:
    """Put in what is written below a variable: autodoc looks for it in the package only."""
    package, _, name = full_name.rpartition(".")
    if what == "data" and package == "nitrohb":
        lines[:] = _written_below(name)


def _written_below(name: str) -> list[str]:
    # Its value is known already, so the module that it comes from has been loaded.
    for module in sorted(loaded for loaded in sys.modules if loaded.startswith("nitrohb.")):
        documented = ModuleAnalyzer.for_module(module).find_attr_docs()
        if ("", name) in documented:
            return documented["", name]
    return []


def _hide_constructor(_app: Any, _what: str, full_name: str, *_: object) -> tuple[str, str] | None:
    """Show no constructor of what only nitrohb itself makes."""
    made = ("nitrohb.HeartbeatServer", "nitrohb.ThreadServer")
    return ("", "") if full_name in made else None


def _check_complete(_app: Any, env: Any) -> None:
    """Fail the build if a public name is missing."""
    documented = {name for name, *_ in env.get_domain("py").get_objects()}
    if missing := [name for name in nitrohb.__all__ if f"nitrohb.{name}" not in documented]:
        raise ExtensionError(f"docs/reference/python.md does not have {', '.join(missing)}")
