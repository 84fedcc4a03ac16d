"""How Sphinx builds the site: `make docs`. Warnings are errors, and nothing is fetched."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from normc.version import VERSION  # noqa: E402  # only found on the path above

project = "normc"
release = VERSION
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["*.json"]
myst_heading_anchors = 3
suppress_warnings = ["misc.highlighting_failure", "myst.header"]  # plans are text; generated pages begin anywhere
html_theme = "furo"
html_title = f"normc {VERSION}"
html_static_path = ["_static"]
html_css_files = ["normc.css"]
html_show_copyright = False
html_show_sphinx = False
default_role = "code"
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
_ARGUMENT = re.compile(r"([a-z_]+) {2,}(?=\S)")
_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([^)#]+)\)")


def _named(found: re.Match[str]) -> str:
    """A link to a file of the repository as the file's path, which the site doesn't hold."""
    text, path = found[1].strip("`"), found[2]
    return f"`{path}`" if path.endswith(text) else f"{text} (`{path}`)"


def _read(app: Any, name: str, source: list[str]) -> None:
    source[0] = _OUTSIDE.sub(_named, source[0])


def _plain(app: Any, what: str, name: str, item: object, options: object, lines: list[str]) -> None:
    """Docstrings are plain text. `name  what it is`, with more lines indented, is an argument; stars mark nothing."""
    shown: list[str] = []
    inside = False
    for line in lines:
        text = re.sub(r"([*|])", r"\\\1", line)
        argument = _ARGUMENT.match(line)
        if argument:
            shown += [] if inside else [""]
            text = f":{argument[1]}: {text[len(argument[0]) :]}"
        elif inside and line and not line.startswith("    "):
            shown.append("")
        inside = bool(argument) or (inside and (not line or line.startswith("    ")))
        shown.append(text)
    lines[:] = shown


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _read)
    app.connect("autodoc-process-docstring", _plain)
