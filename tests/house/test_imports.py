"""The direction of imports: a part sees only parts of its own level and of those below it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from normc.runtime.door import EMBEDDED, MATRICES
from tests.house.tree import modules

# Low to high. A part is what follows "normc." in a module's name; the public door is "normc" itself.
LEVELS = (
    {"errors", "version", "nodes", "runtime", "kernels"},
    {"registry"},
    {"ops", "plans", "trace", "facts", "update", "stages", "gains", "exponents", "fused"},
    {"norms", "recipes"},
    {"passes", "backends"},
    {"analyse", "resize", "planning", "compiler", "optimizer", "exporting", "initialise"},
    {"normc", "cbs", "checking", "report", "targets", "tuning", "weightless", "given", "cli", "__main__"},
)
STRANGERS = ({"passes", "backends"}, {"norms", "recipes"})
LEVEL = {part: level for level, parts in enumerate(LEVELS) for part in parts}


def part(module: str) -> str:
    """The part that `module` belongs to."""
    return module.split(".")[1] if "." in module else module


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


def faults(source: str, module: str, known: set[str]) -> list[str]:
    """What `source`, as `module`, imports against the direction."""
    own = part(module)
    wrong = []
    for name in imported(source, module, known):
        other = part(name)
        above = LEVEL.get(other, -1) > LEVEL[own]
        strange = own != other and any({own, other} == pair for pair in STRANGERS)
        if above or strange:
            wrong.append(f"{module} imports {name}")
    return wrong


@pytest.mark.parametrize(
    ("module", "file"), modules().items(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_imports_point_downwards(module: str, file: Path) -> None:
    assert part(module) in LEVEL, f"give {part(module)!r} its place in LEVELS"
    assert faults(file.read_text(), module, set(modules())) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("normc.passes.role", "from normc.backends import cpu"),
        ("normc.backends.cpu", "def f():\n    import normc.passes.role"),
        ("normc.plans.row", "from normc.passes import role"),
        ("normc.norms.sign", "from normc.recipes.scion import Scion"),
        ("normc.trace.graph", "import normc"),
        ("normc.registry", "from .plans import row"),
    ],
)
def test_a_wrong_import_is_seen(module: str, source: str) -> None:
    assert len(faults(source, module, set(modules()))) == 1


def test_what_exports_embed_has_no_name_twice() -> None:
    """In an exported file all of it is one module."""
    found: dict[str, str] = {}
    for name in (*EMBEDDED, *MATRICES):
        for node in ast.parse(modules()[name].read_text()).body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", node)]
            for own in (getattr(target, "id", getattr(target, "name", None)) for target in targets):
                assert own is None or found.setdefault(own, name) == name, f"{own} is in {found[own]} and in {name}"


def test_what_exports_embed_needs_torch_alone() -> None:
    for module, file in modules().items():
        if part(module) in ("runtime", "kernels"):
            names = imported(file.read_text(), module, set(modules()))
            outside = {name for name in names if part(name) not in ("runtime", "kernels")}
            assert not outside, f"{module} imports {outside}"
