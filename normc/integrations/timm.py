"""For timm: `create_optimizer_v2(model, "normc", lr=0.8, weight_decay=0.1, param_group_fn=whole_model)`.

Importing this module registers "normc" with timm. Only `param_group_fn` sees the model, so it has to be given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from timm.optim import OptimInfo, param_groups_layer_decay
from timm.optim._optim_factory import default_registry  # the one that create_optimizer_v2 asks; not exported
from torch import nn

from normc.compiler import compile as compile_optimizer
from normc.compiler import plan as make_plan
from normc.errors import NormcError
from normc.optimizer import Optimizer
from normc.plans.plan import NormPlan


@dataclass(frozen=True, slots=True)
class Whole:
    """A model in the place of timm's parameter groups, and by what the steps of each parameter are multiplied."""

    model: nn.Module
    factors: tuple[tuple[str, float], ...] = ()


def whole_model(model: nn.Module) -> Whole:
    """Return `model`, as timm's `param_group_fn`."""
    return Whole(model)


def layer_decay(factor: float, *, min_scale: float = 0.0) -> Callable[[nn.Module], Whole]:
    """Return a `param_group_fn` that multiplies the steps of a layer by `factor` for every layer behind it.

    Layers, and the scales that `min_scale` bounds, are timm's (`param_groups_layer_decay`); the plan's scales are
    multiplied by them, so that there is one lr for schedulers. The model has to say what it eats, as timm's do.
    NormcError if `factor` isn't above 0 and at most 1.
    """
    if not 0 < factor <= 1:
        raise NormcError(f"layer_decay is {factor!r}", "give a factor above 0 and at most 1; 0.75 is timm's own")
    return partial(_decayed, factor=factor, min_scale=min_scale)


def _decayed(model: nn.Module, *, factor: float, min_scale: float) -> Whole:
    groups = param_groups_layer_decay(model, layer_decay=factor, min_scale=min_scale)
    scales = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    named = model.named_parameters()
    return Whole(model, tuple((name, scales[id(p)]) for name, p in named if scales.get(id(p), 1.0) != 1.0))


def _slowed(plan: NormPlan, factors: tuple[tuple[str, float], ...]) -> NormPlan:
    for name, factor in factors:
        row = plan[name]
        if row.role != "unused":
            plan = plan.override(row.name, scale=factor * row.scale.formula)
    return plan


def create(groups: Any, *, recipe: str = "auto", options: dict[str, Any] | None = None, **given: Any) -> Optimizer:
    """Return the optimizer of what `whole_model` or `layer_decay` gave; other arguments are `normc.compile`'s.

    timm passes `weight_decay` on whatever it is, and its default is 0. NormcError for groups of bare parameters.
    """
    if not isinstance(groups, Whole):
        raise NormcError(
            "timm gave parameter groups, which have no names and no model",
            "pass param_group_fn=normc.integrations.timm.whole_model (or layer_decay(0.75)) to create_optimizer_v2",
        )
    if not groups.factors:
        return compile_optimizer(groups.model, recipe=recipe, options=options, **given)
    plan = _slowed(make_plan(groups.model, recipe=recipe, options=options), groups.factors)
    return compile_optimizer(groups.model, plan=plan, **given)


default_registry.register(
    OptimInfo(
        name="normc",
        opt_class=create,
        description="an optimizer compiled from the model: each parameter's norm and scale are inferred",
        has_eps=False,
    )
)
