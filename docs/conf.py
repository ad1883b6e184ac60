# SPDX-License-Identifier: Apache-2.0
"""The documentation site: ``nox -s docs`` builds and checks it."""

import builtins
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from nitrohb import __version__

project = "nitrohb"
author = "the authors of nitrohb"
copyright = author  # noqa: A001  # Sphinx wants it under this name
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_argparse_cli",
    "sphinx_copybutton",
    "docs._ext",
]
exclude_patterns = ["_ext"]
nitpicky = True
highlight_language = "text"
smartquotes = False  # in a table's cell --keep would become –keep

# What a docstring names and this site does not have: there is no network to look elsewhere.
nitpick_ignore_regex = [
    (r"py:.*", rf"({'|'.join(sys.stdlib_module_names)}|trio|anyio)(\..*)?"),
    (r"py:.*", rf"({'|'.join(dir(builtins))}|NoneType|datetime|StrEnum|ByteStream)"),
    (r"py:.*", r"(OnEvent|Target)"),  # what annotations call something, and a reader need not
]

myst_enable_extensions = ["attrs_block", "colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_default_options: dict[str, Any] = {"members": True}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True  # as they are written: 0o600, not 384
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
python_maximum_signature_line_length = 88  # one parameter a line beyond that
python_use_unqualified_type_names = True
add_module_names = False

copybutton_exclude = ".linenos, .gp, .go"
copybutton_selector = "div.highlight-sh pre, div.highlight-python pre, div.highlight-toml pre"

html_theme = "furo"
html_title = f"nitrohb {release}"
html_static_path = ["_static"]
html_css_files = ["nitrohb.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_show_copyright = False
html_theme_options: dict[str, Any] = {"footer_icons": []}
