"""For timm: `create_optimizer_v2(model, "normc", lr=0.8, weight_decay=0.1, param_group_fn=whole_model)`.

Importing this module registers "normc" with timm. Only `param_group_fn` sees the model, so it has to be given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from timm.optim import OptimInfo, param_groups_layer_decay
from timm.optim._optim_factory import default_registry  # the one that create_optimizer_v2 asks; not exported
from torch import nn

from normc.compiler import compile as compile_optimizer
from normc.compiler import plan as make_plan
from normc.compiler import request
from normc.errors import NormcError
from normc.optimizer import Optimizer
from normc.plans.asked import asked_changes
from normc.plans.plan import NormPlan


@dataclass(frozen=True, slots=True)
class Whole:
    """A model in the place of timm's parameter groups, and by what the steps of each parameter are multiplied.

    `undecayed` are the parameters that the model's own `no_weight_decay()` names.
    """

    model: nn.Module
    factors: tuple[tuple[str, float], ...] = ()
    undecayed: tuple[str, ...] = ()


def whole_model(model: nn.Module) -> Whole:
    """Return `model`, as timm's `param_group_fn`. What its `no_weight_decay()` names gets no weight decay."""
    return Whole(model, undecayed=_undecayed(model))


def layer_decay(factor: float, *, min_scale: float = 0.0) -> Callable[[nn.Module], Whole]:
    """Return a `param_group_fn` that multiplies the steps of a layer by `factor` for every layer behind it.

    Layers, and the scales that `min_scale` bounds, are timm's (`param_groups_layer_decay`); the plan's scales are
    multiplied by them, so that there is one lr for schedulers. The model has to say what it eats, as timm's do.
    `no_weight_decay()` counts as for `whole_model`. NormcError if `factor` isn't above 0 and at most 1.
    """
    if not 0 < factor <= 1:
        raise NormcError(f"layer_decay is {factor!r}", "give a factor above 0 and at most 1; 0.75 is timm's own")
    return partial(_decayed, factor=factor, min_scale=min_scale)


def _decayed(model: nn.Module, *, factor: float, min_scale: float) -> Whole:
    groups = param_groups_layer_decay(model, layer_decay=factor, min_scale=min_scale)
    scales = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    named = model.named_parameters()
    factors = tuple((name, scales[id(p)]) for name, p in named if scales.get(id(p), 1.0) != 1.0)
    return Whole(model, factors, _undecayed(model))


def _undecayed(model: nn.Module) -> tuple[str, ...]:
    """Parameters that the model's `no_weight_decay()` names, or matches as a glob; none where it has no such method."""
    ask = getattr(model, "no_weight_decay", None)
    patterns = tuple(ask()) if callable(ask) else ()
    names = [name for name, _ in model.named_parameters()]
    return tuple(name for name in names if any(name == one or fnmatchcase(name, one) for one in patterns))


def _slowed(plan: NormPlan, factors: tuple[tuple[str, float], ...]) -> NormPlan:
    for name, factor in factors:
        row = plan[name]
        if row.role != "unused":
            plan = plan.override(row.name, scale=factor * row.scale.formula)
    return plan


def create(
    groups: Any,
    *,
    recipe: str = "auto",
    options: dict[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    **given: Any,
) -> Optimizer:
    """Return the optimizer of what `whole_model` or `layer_decay` gave; other arguments are `normc.compile`'s.

    timm passes `weight_decay` on whatever it is, and its default is 0, which a recipe without weight decay takes too.
    NormcError for groups of bare parameters.
    """
    if not isinstance(groups, Whole):
        raise NormcError(
            "timm gave parameter groups, which have no names and no model",
            "pass param_group_fn=normc.integrations.timm.whole_model (or layer_decay(0.75)) to create_optimizer_v2",
        )
    decayed = any("weight_decay" in values for values in request(recipe, options, None).recipe.defaults)
    if not decayed and given.get("weight_decay") == 0:  # timm's own 0, which asks for nothing
        del given["weight_decay"]
    own = {name: {"weight_decay": 0} for name in groups.undecayed if decayed}
    overrides = {**own, **asked_changes(overrides)}
    if not groups.factors:
        return compile_optimizer(groups.model, recipe=recipe, options=options, overrides=overrides, **given)
    plan = _slowed(make_plan(groups.model, recipe=recipe, options=options), groups.factors)
    return compile_optimizer(groups.model, plan=plan, overrides=overrides, **given)


default_registry.register(
    OptimInfo(
        name="normc",
        opt_class=create,
        description="an optimizer compiled from the model: each parameter's norm and scale are inferred",
        has_eps=False,
    )
)
