"""The source tree as the house tests see it: every module of the package by its import name, and what it imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (("normc", "normc"), ("passes", "normc.passes"), ("backends", "normc.backends"))


@cache
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


def room(module: str) -> str:
    """The folder that a module lies in, without "normc."; the module itself where that is normc's own."""
    folder = module if module in packages() else module.rpartition(".")[0]
    return folder.removeprefix("normc.") if folder != "normc" else module.removeprefix("normc.")


def imported(source: str, module: str, known: set[str]) -> Iterator[str]:
    """The modules of normc that `source` imports, at its top or inside a function; typing-only imports too."""
    package = module.split(".")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package[: len(package) - node.level], *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "normc")
