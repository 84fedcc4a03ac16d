"""The calls behind the public door: a model to its plan, and a plan to its optimizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from normc.model.trace.first_forward import on_first_forward
from normc.model.trace.frontend import find_ladder
from normc.model.trace.inputs import example_inputs as read_inputs
from normc.model.trace.own_inputs import own_inputs
from normc.optimizer import Optimizer, build, defer
from normc.passes.analyses.request import Request
from normc.planning import Overrides, Planned, Planner, changed, inputs_of, planner_of, refuse_lost, uncollected
from normc.plans.plan import NormPlan
from normc.recipe.by_name import recipes
from normc.recipe.mixed import spelled
from normc.recipe.recipe import Option
from normc.update.kernels.ahead import prepare

DEFAULT_RECIPE = "auto"
Tare = Mapping[str, float] | None


def plan(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    recipe: str | Mapping[str, str] = DEFAULT_RECIPE,
    options: Mapping[str, Option] | None = None,
    tare: Tare = None,
    overrides: Overrides = None,
    heads: bool = False,
    frontend: str = "recorder",
    strict: bool = False,
) -> NormPlan:
    """Trace `model` (its weights may be on the meta device) and infer the plan; no code is generated.

    example_inputs  what forward takes: a tensor, a tuple, a dict, or a batch of a DataLoader. May be left out for a
                    model that says what it eats (transformers, timm).
    recipe          a name (`normc recipes` lists them), or {"*": "muon", "output": "adamw", "*.wte.*": "lion"}: one for
                    all rows, others by role or glob.
    tare            {"glob*": mass}: what all rows that match have together, before all masses are made to sum to 1; 0
                    freezes them. Applied in order, to the recipe's own masses.
    overrides       {"glob*": "sign"} or {"glob*": {"norm": ..., "scale": ..., "mass": ...}}, applied in order.
    heads           make every attention head of a query, key or value matrix a block with a norm of its own.
    frontend        what runs the model's code: "recorder", or "export" for torch.export, which runs fewer models and is
                    slower; where both run a model, their plans are the same. What it can't run, the recorder runs, and
                    the plan's notes say why.
    strict          raise NormcError if any parameter's role can't be inferred, or no gradient reaches one that requires
                    it, instead of marking its row.
    """
    planner = Planner(_request(recipe, options, heads, tare), overrides, frontend, strict)
    return planner.plan(model, inputs_of(model, example_inputs))


def _request(recipe: str | Mapping[str, str], options: Mapping[str, Option] | None, heads: bool, tare: Tare) -> Request:
    return Request(recipes[spelled(recipe)].configure(**(options or {})), heads, dict(tare or {}))


@uncollected()
def compile(  # noqa: A001  # the public name
    model: nn.Module,
    example_inputs: Any = None,
    *,
    lr: float | torch.Tensor | Mapping[str, float],
    recipe: str | Mapping[str, str] = DEFAULT_RECIPE,
    options: Mapping[str, Option] | None = None,
    tare: Tare = None,
    overrides: Overrides = None,
    plan: NormPlan | None = None,
    backend: str | None = None,
    heads: bool = False,
    frontend: str = "recorder",
    strict: bool = False,
    compile: bool = True,
    without: Sequence[str] = (),
    state_dtype: torch.dtype | None = None,
    stochastic_rounding: bool = False,
    **group_options: float | tuple[float, ...],
) -> Optimizer:
    """One optimizer for every parameter of `model`, whose update code is generated from its inferred plan.

    Without `example_inputs`, a model that doesn't say what it eats is traced on its first real forward, before which
    `opt.plan` and `opt.step()` raise NormcError. `plan` skips the tracing: one loaded from a file, or edited.
    `backend` is "cpu", "cuda" or "reference" (float64, slow); by default the device of the parameters decides.
    `recipe`, `tare`, `heads`, `frontend` and `strict` are those of `plan()`; with several recipes, `lr` may be
    {recipe: lr}. `compile=False` runs the generated code eagerly. `without` leaves rewrites out, by name (listed in
    docs/performance.md): the same steps, slower.
    `state_dtype=torch.bfloat16` keeps states of a parameter's shape in half the memory; arithmetic stays float32.
    `stochastic_rounding` rounds what is written to bf16, states and weights, up or down by chance, right on average
    (Gupta et al. 2015, arXiv:1502.02551): steps smaller than half a last place aren't lost. See docs/recipes.md.
    `group_options` (momentum, weight_decay, ...) are values of the param groups, by the recipe's names.
    """
    named = list(model.named_parameters())
    for device in {parameter.device for _, parameter in named}:
        prepare(device)
    how: dict[str, Any] = {"backend": backend, "compile": compile, "without": without}
    how |= {"state_dtype": state_dtype, "stochastic_rounding": stochastic_rounding, **group_options}
    if plan is not None:
        given = changed(plan, overrides)
        if strict:
            refuse_lost(given)
        opt = build(given, named, lr=lr, **how)
        known = None if example_inputs is None else read_inputs(model, example_inputs)
        opt.planned = Planned.of(planner_of(plan, overrides, frontend, strict), model, known, given)
        return opt
    planner = Planner(_request(recipe, options, heads, tare), overrides, frontend, strict)
    find_ladder(frontend)  # a wrong name is said now, not at the first forward
    inputs = own_inputs(model) if example_inputs is None else read_inputs(model, example_inputs)
    if inputs is not None:
        found = planner.plan(model, inputs)
        opt = build(found, named, lr=lr, **how)
        opt.planned = Planned.of(planner, model, inputs, found)
        return opt
    opt = defer(planner.request.recipe, named, lr=lr, **how)
    opt.planned = Planned(planner)

    def adopt(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        opt.adopt(planner.plan(model, (args, kwargs)))
        opt.planned = Planned.of(planner, model, (args, kwargs), opt.plan)

    on_first_forward(model, adopt)
    return opt
