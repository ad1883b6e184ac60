# SPDX-License-Identifier: Apache-2.0
"""The documentation as a site: ``nox -s docs`` builds and checks it."""

import re
from typing import Any

from nitrohb import __version__

project = "nitrohb"
author = "the authors of nitrohb"
version = release = __version__

extensions = ["myst_parser"]
myst_heading_anchors = 4
highlight_language = "text"
smartquotes = False  # in a table --keep would become –keep

html_theme = "furo"
html_title = f"nitrohb {release}"
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_show_copyright = False
html_theme_options: dict[str, list[str]] = {"footer_icons": []}


def setup(app: Any) -> None:
    """Make the site's navigation of the links in index.md."""
    app.connect("source-read", _add_navigation)


def _add_navigation(_app: Any, page: str, source: list[str]) -> None:
    if page == "index":
        pages = re.findall(r"\]\(([\w/-]+)\.md\)", source[0])
        source[0] += "\n".join(["", "```{toctree}", ":hidden:", "", *pages, "```"])
