"""From a plan to the plain update program: one graph of update ops per row, written by the recipe's stages."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import fx

from normc.errors import NormcError
from normc.plans.row import Row
from normc.recipe.recipe import Recipe
from normc.recipe.stages.build import Stage, chain_of
from normc.update.program.program import Chain, Program, placeholders

if TYPE_CHECKING:
    from normc.plans.plan import NormPlan


def lower(plan: NormPlan, recipe: Recipe) -> Program:
    """The plain program: one chain per row that gets an update, none fused or batched. NormcError for a bad row.

    Chains of rows that are alike have one graph between them.
    """
    chains: list[Chain] = []
    idle: list[Row] = []
    graphs: dict[object, fx.Graph] = {}
    for row in plan.rows:
        _check(row)
        if row.rule == "none" or row.numel == 0:
            idle.append(row)
        else:
            stages, group = recipe.stages_of(row), recipe.group_of(row)
            alike = (stages, group, _nameless(row))
            if alike not in graphs:
                graphs[alike] = chain_of(row, stages)
                _check_decay(row, recipe, stages)
            chains.append(Chain((row,), graphs[alike], group))
    return Program(plan.model, recipe.name, plan.hash, tuple(chains), tuple(idle))


def _nameless(row: Row) -> Row:
    """A row without what no stage reads."""
    return replace(
        row, name="", aliases=(), uses=(), evidence=(), mass=None, sensitivity=None, magnitude=None, state_bytes=0,
        fallback=None,
    )  # fmt: skip


def _check_decay(row: Row, recipe: Recipe, stages: tuple[Stage, ...]) -> None:
    """A row may have a share of weight decay of its own where its recipe decays it; where it doesn't, none is true."""
    if row.decay == 1.0 or (row.decay == 0.0 and recipe.decays(row)):
        return
    read = [node.name for node in placeholders(chain_of(replace(row, decay=1.0), stages), "number")]
    if "weight_decay" not in read:
        name = recipe.member(row).name
        raise NormcError(
            f"{row.name} is to have {row.decay:g} times the group's weight_decay, but {name} doesn't decay it",
            "leave weight_decay out of the override, or choose a recipe that decays weights",
        )


def _check(row: Row) -> None:
    """Numbers of a plan end up in generated code: they have to be numbers."""
    if not 0 <= row.decay < math.inf:
        raise NormcError(f"the decay of {row.name} is {row.decay}", "give a finite number, 0 or more")
    if not all(math.isfinite(value) for value in row.scale.per_block):
        raise NormcError(f"the scale of {row.name} is not finite: {row.scale.per_block}", "mend the plan's row")
    if len(row.scale.per_block) not in (1, max(len(row.blocks), 1)):
        raise NormcError(
            f"{row.name} has {len(row.blocks)} blocks and {len(row.scale.per_block)} scales", "give one scale a block"
        )
    axes = (*row.in_axes, *row.out_axes, *row.block_axes, *row.kernel_axes)
    outside = [axis for axis in axes if not 0 <= axis < len(row.shape)]
    if outside:
        raise NormcError(
            f"{row.name} has {len(row.shape)} axes, its row names axis {outside[0]}", "mend the plan's row"
        )
