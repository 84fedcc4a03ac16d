"""The direction of imports: a folder says what its files may know, and no two modules import each other."""

from __future__ import annotations

import ast
from pathlib import Path

import networkx as nx
import pytest

from normc.update.runtime.door import EMBEDDED, MATRICES
from tests.house.tree import imported, modules, room

BASE = ("arguments", "errors", "files", "moved", "nodes", "registry", "version")
PIPELINE = (
    "checks",
    "watching",
    "spreading",
    "pipeline",
    "replanning",
    "compiler",
    "exporting",
    "initialise",
    "saving",
)
# Low to high: a wing, and the wings that it may import beside itself. Model and update side don't see each other: the
# plan is all that passes between them. Nor do passes and backends; nor do analyses and rewrites.
SEES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(BASE, BASE),
    "plans": BASE,
    "model": (*BASE, "plans"),
    "update": (*BASE, "plans"),
    "recipe": (*BASE, "plans", "update"),
    "passes": (),
    "passes.analyses": (*BASE, "plans", "model", "recipe"),
    "passes.resize": (*BASE, "plans", "model", "passes.analyses"),
    "passes.rewrites": (*BASE, "plans", "recipe", "update"),
    "backends": (*BASE, "plans", "recipe", "update"),
}
OPTIMIZER = ("metrics", "following", "optimizer")  # no pass: it is given
SEES |= dict.fromkeys(OPTIMIZER, (*BASE, "plans", "recipe", "update", *OPTIMIZER))
SEES |= dict.fromkeys(PIPELINE, (*SEES, *PIPELINE))
SEES |= {"tools": tuple(SEES)}
SEES |= dict.fromkeys(("normc", "cbs", "cli", "__main__"), (*SEES, "normc", "cbs", "cli"))
SEES |= {"integrations": tuple(SEES)}  # over the door: none of normc imports what a host's library is needed for


def wing(module: str) -> str:
    """The longest name of `SEES` that a module's name begins with, without "normc."; "normc" is the public door."""
    at = module.removeprefix("normc.")
    while at not in SEES and "." in at:
        at = at.rpartition(".")[0]
    return at


def faults(source: str, module: str, known: set[str]) -> list[str]:
    """What `source`, as `module`, imports against the direction."""
    own = wing(module)
    others = ((name, wing(name)) for name in imported(source, module, known))
    return [f"{module} imports {name}" for name, other in others if other != own and other not in SEES[own]]


@pytest.mark.parametrize(
    ("module", "file"), modules().items(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_imports_point_downwards(module: str, file: Path) -> None:
    assert wing(module) in SEES, f"give {wing(module)!r} its place in SEES"
    assert faults(file.read_text(), module, set(modules())) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("normc.passes.analyses.role", "from normc.backends import cpu"),
        ("normc.passes.analyses.role", "from normc.passes.rewrites import batch"),
        ("normc.backends.cpu", "def f():\n    import normc.passes.analyses.role"),
        ("normc.plans.row", "from normc.passes.analyses import role"),
        ("normc.update.program.program", "from normc.recipe.recipes.scion import Scion"),
        ("normc.update.fused.expressions", "from normc.model.trace.graph import shape_of"),
        ("normc.recipe.recipe", "from normc.model.gains.local import Model"),
        ("normc.model.trace.graph", "import normc"),
        ("normc.registry", "from .plans import row"),
        ("normc.cli", "def f():\n    from normc.integrations import hf"),
    ],
)
def test_a_wrong_import_is_seen(module: str, source: str) -> None:
    assert len(faults(source, module, set(modules()))) == 1


def test_there_are_no_circles() -> None:
    known = set(modules())
    graph = nx.DiGraph()
    for module, file in modules().items():
        graph.add_edges_from((module, name) for name in imported(file.read_text(), module, known) if name != module)
    assert [sorted(circle) for circle in nx.strongly_connected_components(graph) if len(circle) > 1] == []


def test_benchmarks_and_examples_dont_see_each_other() -> None:
    root = Path(__file__).parents[2]
    for own, other in (("benchmarks", "examples"), ("examples", "benchmarks"), ("workloads", "examples")):
        for file in (root / own).rglob("*.py"):
            assert f"from {other}" not in file.read_text(), f"{file} imports from {other}: share it in workloads"


def test_what_exports_embed_has_no_name_twice() -> None:
    """In an exported file all of it is one module."""
    found: dict[str, str] = {}
    for name in (*EMBEDDED, *MATRICES):
        for node in ast.parse(modules()[name].read_text()).body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", node)]
            for own in (getattr(target, "id", getattr(target, "name", None)) for target in targets):
                assert own is None or found.setdefault(own, name) == name, f"{own} is in {found[own]} and in {name}"


def test_what_exports_embed_needs_torch_alone() -> None:
    within = {"update.runtime", "update.kernels"}
    for module, file in modules().items():
        if room(module) in within:
            outside = {name for name in imported(file.read_text(), module, set(modules())) if room(name) not in within}
            assert not outside, f"{module} imports {outside}"
