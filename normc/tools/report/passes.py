"""What the rewrites of an update program did."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from normc.update.ops.matrices import polar
from normc.update.polynomials.composition import LOWER, composed, shown
from normc.update.program.program import Program


def passes(program: Program) -> RenderableType:
    """Every rewrite in its order: what it did, why that is right, and what it saves."""
    grid = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim underline")
    for head in ("pass", "did", "because", "saves"):
        grid.add_column(head, no_wrap=head == "pass")
    last = ""
    for decision in program.decisions:
        grid.add_row(
            Text(decision.rule if decision.rule != last else "", style="bold"),
            Text(decision.what), Text(decision.why), Text(decision.saving, style="green"),
        )  # fmt: skip
        last = decision.rule
    rows = sum(len(chain.rows) for chain in program.chains)
    chains, functions = len(program.chains), len(program.families)
    summary = f"{rows} parameters in {chains} stacks, updated by {functions} functions; {len(program.idle)} idle"
    return Group(grid, *(Text(f"\n{text}") for text in _guarantees(program)), Text(f"\n{summary}"))


def _guarantees(program: Program) -> list[str]:
    """What each chain of polynomials does to singular values."""
    found: dict[str, None] = {}
    for chain in program.chains:
        for node in chain.graph.nodes:
            steps: Any = node.kwargs.get("polynomials")
            if node.target is polar and steps:
                leaves = shown(composed("given", steps).leaves)
                found[f"Newton-Schulz, {len(steps)} steps: singular values of [{LOWER:g}, 1] end in {leaves}"] = None
    return list(found)
