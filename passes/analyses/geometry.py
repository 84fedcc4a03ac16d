"""geometry: the norm that fits each parameter, its radius and its scale, as the recipe has them for its role."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import sympy

from normc.model.facts import Facts, Log, analysis
from normc.model.trace.graph import ModelGraph, Parameter
from normc.passes.analyses.blocks import Blocks
from normc.passes.analyses.depth import Depth
from normc.passes.analyses.layout import Layouts
from normc.passes.analyses.mass import Masses
from normc.passes.analyses.request import Request
from normc.passes.analyses.role import Roles
from normc.passes.analyses.sanity import Fallbacks
from normc.passes.analyses.sensitivity import Sensitivities
from normc.plans.balance import balanced, gain_of
from normc.plans.expression import show_formula, write_formula
from normc.plans.row import Row, Scale
from normc.recipe.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Rows:
    """The finished rows, without their evidence; and the recipe, with what it has seen of the model in its options."""

    of: Mapping[str, Row]
    recipe: Recipe


@analysis("geometry")
def geometry(model: ModelGraph, facts: Facts, log: Log) -> Rows:
    """Draft each row from the facts, let the recipe give it a norm, and put in the numbers of its blocks."""
    drafts = [_draft(parameter, facts) for parameter in model.parameters]
    recipe = facts[Request].recipe.seeing(drafts, facts[Depth].blocks)
    rows: dict[str, Row] = {}
    for draft in drafts:
        rows[draft.name] = finished(draft, recipe, log)
    log.notes += _far(rows.values(), recipe)
    return Rows(rows, recipe)


def finished(draft: Row, recipe: Recipe, log: Log) -> Row:
    """A draft with the norm, radius and scale that the recipe has for it."""
    chosen = recipe.geometry(draft)
    if draft.mass == 0 and draft.role != "unused":
        draft = replace(draft, frozen=True)
        chosen = replace(chosen, rule="none", target=0.0, formula=sympy.Integer(0), why="mass 0 freezes it")
    row = replace(draft, norm=chosen.norm, rule=chosen.rule, target=chosen.target, scale=draft.scaled(chosen.formula))
    log.because(row.name, "norm", chosen.norm, chosen.reason)
    formula = show_formula(write_formula(chosen.formula))
    reason = f"recipe {recipe.member(row).name}, radius {chosen.target:g}" + (f" = {chosen.why}" if chosen.why else "")
    log.because(row.name, "scale", f"{formula} = {row.scale.value:.6g}", reason)
    return replace(row, state_bytes=recipe.state_bytes(row))


def _far(rows: Iterable[Row], recipe: Recipe) -> list[str]:
    """Say of which rows the gain is so large that it was bounded: they would hardly learn."""
    own = {row.name: (row, gain_of(row) or 0.0) for row in rows if balanced.find(recipe.member(row).name) is not None}
    gains = {name: gain for name, (row, gain) in own.items() if row.mass and row.target * gain > 1.01 * row.mass}
    found = list(gains)
    if not found or recipe.gains != "average":
        return []
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    note = (
        f"a unit step of {', '.join(found[:3])}{more} would move the output by {max(gains.values()):.1g} times "
        "its size, as that is estimated; it counts with 1000 times what is typical here, or it would hardly learn"
    )
    return [note]


def _draft(parameter: Parameter, facts: Facts) -> Row:
    name = parameter.name
    own = facts.about(name)
    layout, roles, sensitivity = own[Layouts].of[name], own[Roles], own[Sensitivities].of[name]
    return Row(
        name=name, aliases=parameter.aliases, shape=parameter.shape, dtype=str(parameter.dtype).removeprefix("torch."),
        role=roles.of[name], uses=roles.uses[name], fan_in=layout.fan_in, fan_out=layout.fan_out,
        in_axes=layout.where("in", "index"), out_axes=layout.where("out"), block_axes=layout.where("block"),
        kernel_axes=layout.where("kernel"), blocks=own[Blocks].of.get(name, ()), norm="", rule="none",
        mass=facts[Masses].of.get(name), sensitivity=sensitivity.sensitivity, magnitude=sensitivity.magnitude,
        scale=Scale(sympy.Integer(0), (0.0,)), target=0.0, state_bytes=0, evidence=(),
        fallback=own[Fallbacks].of.get(name), frozen=not parameter.requires_grad,
    )  # fmt: skip
