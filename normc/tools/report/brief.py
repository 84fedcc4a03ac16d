"""A plan in brief: a line for each role and norm, then the rows that someone should look at."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from normc.plans.plan import NormPlan, reports
from normc.plans.row import Row
from normc.tools.report import words
from normc.tools.report.families import families
from normc.tools.report.footer import footer
from normc.tools.report.table import lines_of, title

_LABELS = 3  # example names of a kind


def brief(plan: NormPlan, width: int) -> RenderableType:
    """The plan of a large model in one screen, `width` columns wide. Each tensor is counted above; what is
    in blocks, tied, frozen, unused, changed by hand or a fallback has a line of its own below.
    """
    kinds: dict[tuple[str, str], list[Row]] = {}
    for row in plan.rows:
        kinds.setdefault((row.role, words.norm(row)), []).append(row)
    grid = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim underline")
    for head in ("role", "norm"):
        grid.add_column(head, no_wrap=True)
    for head in ("tensors", "parameters", "rms/lr"):
        grid.add_column(head, justify="right", no_wrap=True)
    grid.add_column("such as")
    for (role, norm), rows in kinds.items():
        names = [words.shown(family.name) for family in families(rows)]
        shown = ", ".join(names[:_LABELS]) + (f" and {len(names) - _LABELS} more" if len(names) > _LABELS else "")
        size = sum(row.numel for row in rows)
        grid.add_row(role, norm, f"{len(rows):,}", f"{size:,}", words.steps_of(rows), Text(shown, "dim"))
    special = families([row for row in plan.rows if _is_special(row)])
    below = [
        Text("\nrows to look at: in blocks, tied, frozen, unused, changed by hand, or a fallback", "dim"),
        lines_of(special, width),
    ]
    return Group(title(plan), grid, *(below if special else ()), footer(plan))


def _is_special(row: Row) -> bool:
    blocked = bool(row.blocks) and row.role not in ("gain", "bias")  # theirs follow those of their matrix
    by_hand = any(evidence.fact == "override" for evidence in row.evidence)
    lost = row.role == "unused" or row.fallback is not None
    return blocked or lost or by_hand or bool(row.aliases) or row.frozen


reports.add("brief", brief, __name__)
