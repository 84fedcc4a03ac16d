"""The calls behind the public door: a model to its plan, and a plan to its optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from normc.analyse import analyse
from normc.errors import NormcError
from normc.optimizer import Optimizer, build, defer
from normc.passes.request import Request
from normc.plans.plan import NormPlan
from normc.recipes import Option, recipes
from normc.trace import example_inputs as read_inputs
from normc.trace import on_first_forward, own_inputs, trace

DEFAULT_RECIPE = "uscion"
Overrides = Mapping[str, str | Mapping[str, Any]] | None


def plan(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    recipe: str = DEFAULT_RECIPE,
    options: Mapping[str, Option] | None = None,
    overrides: Overrides = None,
    heads: bool = False,
    strict: bool = False,
) -> NormPlan:
    """Trace `model` (its weights may be on the meta device) and infer the plan; no code is generated.

    example_inputs  what forward takes: a tensor, a tuple, a dict, or a batch of a DataLoader. May be left out for a
                    model that says what it eats (transformers, timm).
    overrides       {"glob*": "sign"} or {"glob*": {"norm": ..., "scale": ..., "mass": ...}}, applied in order.
    heads           make every attention head of a query, key or value matrix a block with a norm of its own.
    strict          raise NormcError if any parameter's role can't be inferred, instead of marking its row.
    """
    if example_inputs is None:
        inputs = own_inputs(model)
        if inputs is None:
            raise NormcError(
                f"{type(model).__name__} doesn't say what its forward takes",
                "pass example_inputs: a tensor, a tuple, a dict or a batch of your DataLoader",
            )
    else:
        inputs = read_inputs(model, example_inputs)
    return _plan(model, inputs, _request(recipe, options, heads), overrides, strict)


def _plan(
    model: nn.Module,
    inputs: tuple[tuple[Any, ...], dict[str, Any]],
    request: Request,
    overrides: Overrides,
    strict: bool,
) -> NormPlan:
    found = _overridden(analyse(trace(model, *inputs), request), overrides)
    if strict:
        _refuse_fallbacks(found)
    return found


def _overridden(plan: NormPlan, overrides: Overrides) -> NormPlan:
    for pattern, change in (overrides or {}).items():
        plan = plan.override(pattern, **({"norm": change} if isinstance(change, str) else change))
    return plan


def _refuse_fallbacks(plan: NormPlan) -> None:
    lost = [row for row in plan.rows if row.fallback is not None]
    if lost:
        listed = "\n".join(f"    {row.name}: {row.fallback}" for row in lost)
        raise NormcError(
            f"{len(lost)} of {len(plan.rows)} parameters could not be inferred:\n{listed}",
            'add a rule for the op (one file, @rule("aten.name")), or override those rows',
        )


def _request(recipe: str, options: Mapping[str, Option] | None, heads: bool) -> Request:
    return Request(recipes[recipe].configure(**(options or {})), heads)


def compile(  # noqa: A001  # the public name
    model: nn.Module,
    example_inputs: Any = None,
    *,
    lr: float | torch.Tensor,
    recipe: str = DEFAULT_RECIPE,
    options: Mapping[str, Option] | None = None,
    overrides: Overrides = None,
    plan: NormPlan | None = None,
    backend: str | None = None,
    heads: bool = False,
    strict: bool = False,
    compile: bool = True,
    **group_options: float,
) -> Optimizer:
    """One optimizer for every parameter of `model`, whose update code is generated from its inferred plan.

    Without `example_inputs`, a model that doesn't say what it eats is traced on its first real forward, before which
    `opt.plan` and `opt.step()` raise NormcError. `plan` skips the tracing: one loaded from a file, or edited.
    `backend` is "cpu", "cuda" or "reference" (float64, slow); by default the device of the parameters decides.
    `heads` and `strict` are those of `plan()`. `compile=False` runs the generated code eagerly. `group_options`
    (momentum, weight_decay, ...) are values of the param groups, by the recipe's names.
    """
    named = list(model.named_parameters())
    if plan is not None:
        return build(_overridden(plan, overrides), named, lr=lr, backend=backend, compile=compile, **group_options)
    request = _request(recipe, options, heads)
    inputs = own_inputs(model) if example_inputs is None else read_inputs(model, example_inputs)
    if inputs is not None:
        found = _plan(model, inputs, request, overrides, strict)
        return build(found, named, lr=lr, backend=backend, compile=compile, **group_options)
    opt = defer(request.recipe, named, lr=lr, backend=backend, compile=compile, **group_options)

    def adopt(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        opt.adopt(_plan(model, (args, kwargs), request, overrides, strict))

    on_first_forward(model, adopt)
    return opt
