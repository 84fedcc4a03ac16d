"""Everything that a plan knows of one parameter, and what each of its blocks gets, the numbers put into the formula."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from normc.plans.at import Dimension
from normc.plans.balance import balanced
from normc.plans.geometry import NORMED, norms
from normc.plans.plan import NormPlan, explanations
from normc.plans.row import Evidence, Row
from normc.recipe.by_name import recipe_of
from normc.recipe.stages.apply import QkClip
from normc.tools.report import words
from normc.tools.report.step import Step, steps

More = Callable[[Row], list[tuple[str, Text]]]


def explain(plan: NormPlan, name: str, more: More = lambda row: []) -> RenderableType:
    """The reasons for the row of that name or alias, its step, and `more`. NormcError, with the nearest, for no such
    row.
    """
    row = plan[name]
    grid = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column(ratio=1)
    for fact, text in (*known(plan, row), *_formula(plan, row), *more(row)):
        grid.add_row(f"  {fact}", text)
    return Group(Text(words.shown(row.name), style="bold"), grid)


def known(plan: NormPlan, row: Row) -> list[tuple[str, Text]]:
    """What the plan itself says of a row: each fact and its words. A law of depth takes other plans, and isn't among
    them.
    """
    reasons = [evidence for evidence in row.evidence if evidence.fact not in _NUMBERS]
    return [*_facts(row), *map(_evidence, reasons), *_uses(row), *_update(row), *_clip(plan, row)]


@explanations.register("rows")
def explained(plan: NormPlan, patterns: Sequence[str]) -> RenderableType:
    """Of each pattern, an explanation of every row that matches; then the model's sizes, where the plan knows them.
    NormcError for a pattern that no row matches.
    """
    return explained_with(plan, patterns, lambda row: [])


def explained_with(plan: NormPlan, patterns: Sequence[str], more: More) -> RenderableType:
    """As `explained`, with `more` lines of each row."""
    parts = [
        part for pattern in patterns for row in plan.matching(pattern) for part in (explain(plan, row.name, more), "")
    ]
    return Group(*parts, *([] if plan.origin is None else [sizes(plan.dimensions)]))


def sizes(dimensions: Iterable[Dimension]) -> RenderableType:
    """The model's dimensions by name, as `plan.at` and `--at` take them."""
    found = list(dimensions)
    follow = [dimension.name for dimension in found[1:] if dimension.follows]
    listed = Text(", ".join(f"{dimension.name} {dimension.size}" for dimension in found))
    if follow:
        listed.append(f"  ({', '.join(follow)} keep their ratio to {found[0].name})", style="dim")
    return Text("sizes  ", style="dim").append_text(listed)


def _formula(plan: NormPlan, row: Row) -> list[tuple[str, Text]]:
    """The scale's law of depth, where masses set it."""
    if plan.origin is None or plan.recipe not in balanced or row.rule == "none":
        return []
    law = plan.origin.law(plan, row.name)
    if law is None:
        return []
    return [("formula", Text(law.text).append(f"  {law.note}" if law.note else "", style="dim"))]


# Facts that the last lines say with their numbers, and the reason that the evidence gives.
_NUMBERS = ("mass", "scale", "sensitivity")


def _facts(row: Row) -> list[tuple[str, Text]]:
    """What the row is, and whatever no evidence speaks of."""
    facts = [
        (
            "tensor",
            Text(f"{words.shape(row)}, {row.dtype}, {row.numel:,} entries, {words.size(row.state_bytes)} of state"),
        )
    ]
    facts += [("tied", Text(f"= {words.shown(alias)}", style="green")) for alias in row.aliases]
    said = {evidence.fact for evidence in row.evidence}
    if "role" not in said or row.frozen:
        facts.append(("role", Text(words.role(row))))
    if row.blocks and "blocks" not in said:
        facts.append(("blocks", Text(f"{words.blocks(row.blocks)}, along axis {row.blocks[0].axis}")))
    if row.fallback is not None:
        facts.append(("FALLBACK", Text(words.shown(row.fallback), style="bold red")))
    return facts


def _evidence(evidence: Evidence) -> tuple[str, Text]:
    text = Text(f"{words.shown(evidence.claim)}  because {words.shown(evidence.reason)}")
    place = ", ".join(
        words.shown(part) for part in (evidence.op, evidence.source) if part and part not in evidence.reason
    )
    return words.shown(evidence.fact), text.append(f"  ({place})" if place else "", style="dim")


def _uses(row: Row) -> list[tuple[str, Text]]:
    found = []
    for use in row.uses:
        text = Text(f"{use.role} in {words.shown(use.op)}, axes {', '.join(use.axes)}")
        place = ", ".join(words.shown(part) for part in (use.module, use.source) if part)
        found.append(("use", text.append(f"  ({place})" if place else "", style="dim")))
    return found


def _update(row: Row) -> list[tuple[str, Text]]:
    """Norm, mass, and for each kind of block its scale and step."""
    if row.rule == "none":
        return [("update", Text("none", style="bold"))]
    operator = f", {norms[row.norm].operator}" if row.rule in NORMED else ""
    lines = [("update", Text(f"{words.norm(row)}{operator}, radius {words.number(row.target)}", style="bold"))]
    for head, value in (("mass", row.mass), ("sensitivity", row.sensitivity)):
        if value is not None:
            lines.append((head, _reasoned(row, head, words.number(value))))
    found = steps(row)
    for label, index in _kinds(row):
        fan_out, fan_in = row.block_fans[index]
        names = {"d_out": str(fan_out), "d_in": words.number(fan_in / row.kernel), "k": str(row.kernel)}
        parts = [words.formula(row), words.formula(row, names), words.number(row.scale.per_block[index])]
        scale = " = ".join(dict.fromkeys(parts))
        lines.append((f"scale{label}", _reasoned(row, "scale", scale)))
        if found:
            lines.append((f"step{label}", Text(_size(found[index], fan_out, fan_in))))
    return lines if row.decay == 1.0 else [*lines, ("weight decay", Text(words.share(row.decay)))]


def _clip(plan: NormPlan, row: Row) -> list[tuple[str, Text]]:
    """What the recipe does after the step to heads whose logits are too large, where the row's heads are known."""
    stages = recipe_of(plan).stages_of(row) if row.rule != "none" and row.blocks else ()
    return [
        ("QK-clip", Text(
            f"a head whose logits exceed {words.number(stage.threshold)} gets w times "
            f"sqrt({words.number(stage.threshold)} / largest)  {len(row.blocks)} heads, told by opt.observe_logits"
        ))
        for stage in stages if isinstance(stage, QkClip)
    ]  # fmt: skip


def _reasoned(row: Row, fact: str, text: str) -> Text:
    reasons = "; ".join(words.shown(evidence.reason) for evidence in row.evidence if evidence.fact == fact)
    return Text(f"{text}  because {reasons}" if reasons else text)


def _kinds(row: Row) -> list[tuple[str, int]]:
    """A label and the number of one block for each kind of block: those of one size and scale are one kind."""
    kinds: dict[tuple[object, ...], list[int]] = {}
    for index, (fans, scale) in enumerate(zip(row.block_fans, row.scale.per_block, strict=True)):
        kinds.setdefault((fans, scale), []).append(index)
    if len(kinds) == 1:
        return [("" if len(row.block_fans) == 1 else " each", 0)]
    return [
        (f" {', '.join(words.shown(row.blocks[i].label) for i in members[:4])}", members[0])
        for members in kinds.values()
    ]


def _size(step: Step, fan_out: int, fan_in: int) -> str:
    """`at lr 1: RMS 0.108, spectral norm 3, RMS to RMS 3`."""
    text = f"at lr 1: RMS {words.number(step.rms)}"
    if step.spectral is None:
        return text
    gain = math.sqrt(fan_in / fan_out)
    low, high = step.spectral
    if math.isclose(low, high):
        return f"{text}, spectral norm {words.number(high)} (from RMS to RMS {words.number(gain * high)})"
    bounds = f"{words.number(low)} to {words.number(high)}"
    return f"{text}, spectral norm {bounds} (from RMS to RMS {words.number(gain * low)} to {words.number(gain * high)})"
