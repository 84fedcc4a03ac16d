"""What is said of a plan as a whole, under its table."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from normc.errors import NormcError
from normc.plans.plan import NormPlan
from normc.plans.row import Row
from normc.plans.sharpness import Sharpness
from normc.tools.report.families import families
from normc.tools.report.like_adamw import RMS, lr_like_adamw
from normc.tools.report.words import number, share, shown, size

_NAMED = 6
_LR = 1e-3


def footer(plan: NormPlan) -> Table:
    """Coverage, ties, fallbacks, unused, frozen, state, recipe and options, lr, sharpness, notes, hash."""
    grid = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column()
    for head, text in _lines(plan):
        grid.add_row(head, text)
    return grid


def _lines(plan: NormPlan) -> list[tuple[str, Text]]:
    found = plan.coverage
    inferred = f"{found.entries:,} of {found.all_entries:,} parameters, {found.tensors} of {found.all_tensors} tensors"
    whole, lost = found.tensors == found.all_tensors, [row for row in plan.rows if row.fallback is not None]
    lines = [("", Text("")), ("inferred", Text(inferred, style="green" if whole else "bold red" if lost else "yellow"))]
    ties = [" = ".join(map(shown, (row.name, *row.aliases))) for row in plan.rows if row.aliases]
    lines.append(("ties", Text("; ".join(ties[:_NAMED]) + _more(ties) if ties else "none")))
    lines.append(("fallbacks", Text(_counted(lost), style="bold red") if lost else Text("none")))
    lines += _still(plan)
    lines.append(("state", Text(size(plan.state_bytes))))
    options = ", ".join(f"{shown(name)} {value}" for name, value in plan.options)
    lines.append(("recipe", Text(f"{plan.recipe}: {options}" if options else plan.recipe)))
    lines += _decays(plan)
    lines += _rates(plan)
    if dict(plan.options).get("gains", "average") != "average":
        lines.append(("sharpness", Text(_sharpness(plan.sharpness))))
    lines += [("note", Text(shown(note), style="yellow")) for note in plan.notes]
    lines.append(("hash", Text(plan.hash[:16], style="bold")))
    return lines


def _rates(plan: NormPlan) -> list[tuple[str, Text]]:
    """The lr that is AdamW's 0.001, where the plan knows its steps' size."""
    try:
        found = lr_like_adamw(plan, _LR)
    except NormcError:
        return []
    rates = found if isinstance(found, dict) else {"": found}
    own = ", ".join(f"{name} {number(lr)}".lstrip() for name, lr in rates.items())
    return [("lr", Text(f"{own} for steps as large as AdamW's at {number(_LR)} (RMS {number(RMS * _LR)})"))]


def _decays(plan: NormPlan) -> list[tuple[str, Text]]:
    """The rows that don't have the group's weight decay: a line for every factor."""
    own: dict[float, list[Row]] = {}
    for row in plan.rows:
        if row.decay != 1.0:
            own.setdefault(row.decay, []).append(row)
    return [("weight decay", Text(f"{share(decay)}: {_counted(rows)}")) for decay, rows in sorted(own.items())]


def _still(plan: NormPlan) -> list[tuple[str, Text]]:
    """What doesn't learn, and what is left that does."""
    unused = [row for row in plan.rows if row.role == "unused"]
    frozen = [row for row in plan.rows if row.frozen and row.role != "unused"]
    learning = [row for row in plan.rows if row.rule != "none" and not row.frozen]
    asking = any(not row.frozen for row in unused)  # for a gradient, and there is none
    lines = [("unused", Text(_counted(unused), style="bold red" if asking else ""))] if unused else []
    lines += [("frozen", Text(_counted(frozen)))] if frozen else []
    entries = f"{sum(row.numel for row in learning):,} of {sum(row.numel for row in plan.rows):,} parameters"
    return [*lines, ("learning", Text(f"{entries}, {len(learning)} of {len(plan)} tensors"))] if lines else []


def _sharpness(found: Sharpness) -> str:
    if found.alpha is None or found.beta is None or found.gamma is None:
        return f"unknown: {shown(found.missing)}"
    sizes = f"α {number(found.alpha)}, β {number(found.beta)}, γ {number(found.gamma)}"
    return f"{sizes}, for activations of size 1: a step moves the output by at most lr + {number(found.alpha / 2)} lr²"


def _counted(rows: list[Row]) -> str:
    """How many, and which: by family."""
    names = [shown(family.name) for family in families(rows)]
    tensors = "1 tensor" if len(rows) == 1 else f"{len(rows)} tensors"
    return f"{tensors}, {sum(row.numel for row in rows):,} parameters: {', '.join(names[:_NAMED])}{_more(names)}"


def _more(names: list[str]) -> str:
    return f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
