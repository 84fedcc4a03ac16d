"""What the rewrites of an update program did."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from normc.update.program import Program


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
    return Group(grid, Text(f"\n{summary}"))
