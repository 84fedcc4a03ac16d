"""What the usual ways to choose Muon's matrices, by name and number of axes, would do to a plan's parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from normc.plans.plan import NormPlan
from normc.plans.row import Row
from normc.registry import Registry
from normc.tools.report import words
from normc.tools.report.families import families

Chooser = Callable[[str, tuple[int, ...]], bool]
_THINGS = {
    "input": "an input matrix",
    "hidden": "a hidden matrix",
    "output": "an output head",
    "embedding": "an embedding table",
    "position": "a position table",
    "depthwise": "a depthwise filter",
    "state": "no matrix",
}
heuristics: Registry[Chooser] = Registry("heuristic", "normc.tools.report")


@heuristics.register("muon-ndim")
def by_axes(name: str, shape: tuple[int, ...]) -> bool:
    """Every tensor of two axes or more: what short training scripts do."""
    return len(shape) >= 2


@heuristics.register("muon-names")
def by_names(name: str, shape: tuple[int, ...]) -> bool:
    """Two axes or more, and not called an embedding or a head: Keller Jordan's advice, as scripts spell it."""
    return len(shape) >= 2 and not any(word in name.lower() for word in ("embed", "head", "wte", "wpe"))


@heuristics.register("torch-example")
def by_two_axes(name: str, shape: tuple[int, ...]) -> bool:
    """Exactly two axes, the only tensors that torch.optim.Muon accepts."""
    return len(shape) == 2


@heuristics.register("timm")
def by_suitability(name: str, shape: tuple[int, ...]) -> bool:
    """timm.optim.Muon's own test: no leading axis of one, sides of at least 4, an aspect ratio of at most 128."""
    if len(shape) < 2 or sum(size > 1 for size in shape) < 2 or 1 in shape[:2]:
        return False
    sides = (shape[0], math.prod(shape[1:]))
    return min(sides) >= 4 and max(sides) <= 128 * min(sides)


@heuristics.register("deepspeed")
def by_keywords(name: str, shape: tuple[int, ...]) -> bool:
    """DeepSpeed's: two axes or more, and neither "embed" nor "lm_head" in the name."""
    return len(shape) >= 2 and not any(word in name.lower() for word in ("embed", "lm_head"))


def faults(row: Row, chosen: bool) -> tuple[str, ...]:
    """What is wrong with a row's treatment, if it is orthogonalised as it is stored (`chosen`) or left to AdamW."""
    if row.role == "unused" or row.fallback is not None:
        return ()
    if row.role not in ("input", "hidden"):
        return (f"orthogonalised, but it is {_THINGS.get(row.role, f'a {row.role}')}",) if chosen else ()
    if not chosen:
        return (f"left to AdamW, but it is {_THINGS.get(row.role, f'a {row.role}')}",)
    found = []
    if row.block_axes:
        count = math.prod(row.shape[axis] for axis in row.block_axes)
        found.append(f"a stack of {count} matrices taken for one")
    elif 0 in row.in_axes and row.fan_in != row.fan_out:
        found.append("fan-in taken for fan-out: its scale is upside down")
    if row.blocks:
        names = " ".join(block.label for block in row.blocks) if len(row.blocks) < 7 else str(len(row.blocks))
        found.append(f"independent blocks ({names}) taken for one matrix")
    return tuple(found)


def against(plan: NormPlan, names: Sequence[str]) -> RenderableType:
    """For each heuristic, a table of the parameters that it treats wrongly, and how. NormcError for an unknown one."""
    return Group(*(part for name in names for part in _one(plan, name)))


def _one(plan: NormPlan, name: str) -> list[RenderableType]:
    choose = heuristics[name]
    grid = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for title in ("parameter", "shape", "what it would get wrong"):
        grid.add_column(title, overflow="fold")
    wrong = entries = 0
    for family in families(plan.rows):
        found = faults(family.rows[0], choose(family.rows[0].name, family.rows[0].shape))
        if found:
            wrong += len(family.rows)
            entries += sum(row.numel for row in family.rows)
            times = f" ×{len(family.rows)}" if len(family.rows) > 1 else ""
            label = Text(words.shown(family.name) + times)
            grid.add_row(label, words.shape(family.rows[0]), Text("; ".join(found)))
    total = sum(row.numel for row in plan.rows)
    share = 100 * entries / total if total else 0.0
    summary = f"{wrong} of {len(plan.rows)} tensors, {share:.1f} % of all entries, would be treated wrongly"
    head = Text(f"against {name}: {summary}", style="bold")
    note = Text((choose.__doc__ or "").splitlines()[0], style="dim")
    return [head, note, *([grid] if wrong else []), Text()]
