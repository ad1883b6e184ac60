# SPDX-License-Identifier: Apache-2.0
"""Write what is made from the code: completions, the man page, and parts of pages in docs/.

``nox -s generate`` runs this. The results are in the repository: a build does not need this or
shtab, and gives the same bytes on every machine. A test says when they are out of date.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import Any, Final, cast

import shtab

sys.path.insert(0, str(Path(__file__).parents[2]))

from deploy.packaging.demo_picture import demo_picture
from deploy.packaging.manpage import manpage, subcommands
from deploy.packaging.pages import pages
from nitrohb import __version__
from nitrohb.cli.options import SHELLS
from nitrohb.cli.parser import build_parser

__all__ = ["generated"]

ROOT: Final = Path(__file__).parents[2]

# In bash a colon begins a new word, so after "unix:" it completes a path by itself (see _BASH).
_ADDRESS: Final = {
    "zsh": "_nitrohb_address",
    "fish": "(_nitrohb_address)",
    "preamble": {
        "zsh": """
_nitrohb_address() {
  if compset -P '(unix|hybrid):'; then
    _files
  else
    compadd -S '' -- vsock: unix: hybrid: fd:
  fi
}
""",
        "fish": """
function _nitrohb_address
  set -l token (commandline -ct)
  if set -l kind (string match -r '^(?:unix|hybrid):' -- $token)
    for path in (__fish_complete_path (string replace -- $kind '' $token))
      printf '%s%s\\n' $kind $path
    end
  else
    printf '%s\\n' vsock: unix: hybrid: fd:
  end
end
""",
    },
}

# Where shtab has no completion, let bash complete files.
_BASH: Final = ("complete -o bashdefault ", "complete -o bashdefault -o default ")

_COMMAND: Final = {
    "bash": "_nitrohb_command_or_file",
    "zsh": "_nitrohb_command",
    "fish": "(_nitrohb_command)",
    "preamble": {
        "bash": """
_nitrohb_command_or_file() {
  if [[ "${COMP_WORDS[COMP_CWORD-1]}" == -- ]]; then
    compgen -c -- "$1"
  elif [[ " ${COMP_WORDS[*]:0:COMP_CWORD} " == *" -- "* ]]; then
    compgen -f -- "$1"
  fi
}
""",
        "zsh": """
_nitrohb_command() {
  if [[ $words[1] == -- ]]; then
    shift words
    (( CURRENT-- ))
    _normal
  fi
}
""",
        "fish": """
function _nitrohb_command
  if set -l rest (string match -r -g '^.*? -- +(.*)$' -- (commandline -cp | string collect))
    complete -C "$rest"
  end
end
""",
    },
}

_GROUP: Final = {
    "bash": "_nitrohb_group",
    "zsh": "_groups",
    "fish": "(__fish_complete_groups)",
    "preamble": {"bash": '\n_nitrohb_group() {\n  compgen -g -- "$1"\n}\n'},
}

_USER: Final = {
    "bash": "_nitrohb_user",
    "zsh": "_users",
    "fish": "(__fish_complete_users)",
    "preamble": {"bash": '\n_nitrohb_user() {\n  compgen -u -- "$1"\n}\n'},
}

# How to complete a value, by its metavar.
_VALUES: Final[dict[str, Any]] = {
    "PATH": shtab.FILE,
    "PATH|fd:N": shtab.FILE,
    "ADDR": _ADDRESS,
    "ADDR|auto": _ADDRESS,
    "GROUP": _GROUP,
    "USER": _USER,
}


def generated() -> dict[Path, str]:
    """What each generated file should contain."""
    files = {ROOT / "docs" / "nitrohb.1": manpage(build_parser())}
    files[ROOT / "docs" / "demo.svg"] = demo_picture()
    manifest = ROOT / "deploy" / "kubernetes" / "nitrohb.yaml"
    files[manifest] = re.sub(
        r"(image: \S+/nitrohb:)\S+", rf"\g<1>{__version__}", manifest.read_text("utf-8")
    )
    for shell in SHELLS:
        path = ROOT / "src" / "nitrohb" / "cli" / "completions" / f"nitrohb.{shell}"
        files[path] = shtab.complete(_completed(), shell).replace(*_BASH).rstrip("\n") + "\n"
    return files | pages(ROOT / "docs")


def _completed() -> argparse.ArgumentParser:
    """The parser, with the completions of its values for shtab."""
    parser = build_parser()
    commands = subcommands(parser)
    _add_options_of_serve(parser, commands["serve"])
    for command in (parser, *commands.values()):
        for action in command._actions:
            if isinstance(action.metavar, str) and action.metavar in _VALUES:
                cast("Any", action).complete = _VALUES[action.metavar]
    (launched,) = (action for action in commands["run"]._actions if action.dest == "misplaced")
    launched.help, launched.nargs = "the command", argparse.REMAINDER
    cast("Any", launched).complete = _COMMAND
    return parser


def _add_options_of_serve(parser: argparse.ArgumentParser, serve: argparse.ArgumentParser) -> None:
    """Let the parser take the options of serve, the default command."""
    for action in serve._actions:
        if action.option_strings and action.dest != "help":
            parser._add_action(action)


def main() -> None:
    for path, text in generated().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
