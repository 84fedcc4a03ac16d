"""The picture in docs/architecture.md, of imports and folders' docstrings: `python -m tests.house.picture` draws it."""

from __future__ import annotations

import ast

import networkx as nx

from tests.house.test_imports import BASE, PIPELINE, SEES, wing
from tests.house.tree import ROOT, imported, modules, packages

PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- made by `make picture` from the imports -->\n", "<!-- until here -->\n"
DOOR = tuple(name for name in SEES if name in ("normc", "cbs", "cli", "__main__"))


def part(module: str) -> str:
    """A module's place in the picture: its wing, where the door's and the pipeline's modules are one each."""
    own = wing(module)
    return "door" if own in DOOR else "pipeline" if own in PIPELINE else own


def lines() -> nx.DiGraph:
    """Which part imports which, but for what follows from the rest."""
    graph = nx.DiGraph()
    known = set(modules())
    for module, file in modules().items():
        graph.add_edges_from((part(module), part(name)) for name in imported(file.read_text(), module, known))
    graph.remove_edges_from(list(nx.selfloop_edges(graph)))
    graph.remove_nodes_from([name for name in BASE if name in graph])
    return nx.transitive_reduction(graph)


def folder(name: str) -> str:
    """Where a package or module lies: `normc/model/ops`, `passes/analyses`, `normc/compiler.py`."""
    return str(modules()[name].relative_to(ROOT)).removesuffix("/__init__.py")


def held(name: str) -> list[str]:
    """A part's folders, and the modules of the pipeline and the door, without the part's own name."""
    if name in ("pipeline", "door"):
        own = PIPELINE if name == "pipeline" else DOOR
        return [module for module in own if module not in ("normc", "__main__")]
    inside = [package.removeprefix("normc.") for package in sorted(packages())]
    return [package.removeprefix(f"{name}.") for package in inside if package.startswith(f"{name}.")]


def picture() -> str:
    """Mermaid: an arrow where one part imports another and no longer way leads there."""
    graph = lines()
    key = {name: name.replace(".", "_") for name in sorted(graph.nodes)}
    shown = [f'    {key[name]}["{"<br>".join(filter(None, (name, " ".join(held(name)))))}"]' for name in key]
    arrows = [f"    {key[above]} --> {key[below]}" for above, below in sorted(graph.edges)]
    return "\n".join(["```mermaid", "flowchart TD", *shown, *arrows, "```"])


def table() -> str:
    """What every folder holds, as its docstring's first line says, and every module at the top."""
    top = [name for name in modules() if name.count(".") == 1 and name not in packages() and name != "normc.__main__"]
    rows = []
    for name in [*sorted(packages() - {"normc"}, key=folder), *sorted(top)]:
        said = ast.get_docstring(ast.parse(modules()[name].read_text())) or ""
        rows.append(f"| `{folder(name)}` | {said.splitlines()[0]} |")
    return "\n".join(["| folder | holds |", "| --- | --- |", *rows])


def drawn(page: str) -> str:
    """The page with its picture and table made anew."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{picture()}\n\n{table()}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text()))
