"""The source tree as the house tests see it: every module of the package by its import name."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (("normc", "normc"), ("passes", "normc.passes"), ("backends", "normc.backends"))


def modules() -> dict[str, Path]:
    """`normc.plans.row` -> its file, for all of normc; a file that a link shows a second time is there once."""
    found = {}
    for folder, package in FOLDERS:
        for file in sorted((ROOT / folder).rglob("*.py")):
            inside = file.relative_to(ROOT / folder)
            if folder == "normc" and inside.parts[0] in ("passes", "backends"):
                continue
            parts = inside.with_suffix("").parts
            found[".".join((package, *(parts[:-1] if parts[-1] == "__init__" else parts)))] = file
    return found


def packages() -> set[str]:
    """The import names of all packages: the folders that hold an __init__.py."""
    return {name for name, file in modules().items() if file.name == "__init__.py"}
