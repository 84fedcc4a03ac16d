"""The calls behind the public door: a model to its plan, and a model or a plan to its optimizer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from normc.arguments import by_text, flag, instance, items, number
from normc.errors import NormcError
from normc.model.trace.distributed import own_parameters
from normc.model.trace.failures import ForwardError
from normc.model.trace.frontend import find_ladder
from normc.model.trace.inputs import example_inputs as read_inputs
from normc.model.trace.own_inputs import own_inputs
from normc.optimizer import Optimizer
from normc.passes.analyses.request import Overrides, Request
from normc.pipeline import Maker, optimizer_of, plan_model, uncollected
from normc.plans.asked import asked_changes, changed, refuse_lost
from normc.plans.plan import NormPlan
from normc.recipe.by_name import recipe_of, recipes
from normc.recipe.mixed import spelled
from normc.recipe.rates import default_lr
from normc.recipe.recipe import Option, Recipe
from normc.replanning import Source, inputs_of, refuse_sparse, request_of
from normc.update.kernels.ahead import prepare
from normc.update.program.build import build_of

DEFAULT_RECIPE = "auto"
Tare = Mapping[str, float] | None
Rate = float | Tensor | Mapping[str, float] | None  # of all groups, or {recipe: lr}; None for the recipe's own


def plan(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    recipe: str | Mapping[str, str] = DEFAULT_RECIPE,
    options: Mapping[str, Option] | None = None,
    tare: Tare = None,
    overrides: Overrides | None = None,
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
    asked = request(recipe, options, tare, overrides, heads, frontend, strict)
    inputs = inputs_of(model, example_inputs)
    try:
        return plan_model(model, inputs, asked)
    except ForwardError as failure:
        if example_inputs is not None:
            raise
        raise NormcError(
            f"{failure.problem}. They were made from what the model's config says", "pass example_inputs of your own"
        ) from failure


def request(
    recipe: str | Mapping[str, str],
    options: Mapping[str, Option] | None,
    tare: Tare,
    overrides: Overrides | None = None,
    heads: bool = False,
    frontend: str = "recorder",
    strict: bool = False,
) -> Request:
    """Return the request that these arguments of `plan` make. NormcError for one that is of another type or unknown."""
    known = recipes[spelled(recipe)].configure(**by_text("options", options, 'give {"ns_steps": 5}'))
    find_ladder(frontend)
    masses = {
        pattern: number(f"the mass of {pattern!r}", mass, "give a finite number, 0 or more")
        for pattern, mass in by_text("tare", tare, 'give {"glob*": 1.5}').items()
    }
    return Request(known, flag("heads", heads), masses, asked_changes(overrides), frontend, flag("strict", strict))


def _rate(recipe: Recipe, lr: Rate) -> float | Tensor | Mapping[str, float]:
    return default_lr(recipe) if lr is None else lr


@uncollected()
def compile(  # noqa: A001  # the public name
    model: nn.Module,
    example_inputs: Any = None,
    *,
    lr: Rate = None,
    recipe: str | Mapping[str, str] = DEFAULT_RECIPE,
    options: Mapping[str, Option] | None = None,
    tare: Tare = None,
    overrides: Overrides | None = None,
    plan: NormPlan | None = None,
    backend: str | None = None,
    heads: bool = False,
    frontend: str = "recorder",
    strict: bool = False,
    compile: bool | None = None,
    without: Sequence[str] = (),
    state_dtype: torch.dtype | None = None,
    state_device: str | None = None,
    stochastic_rounding: bool = False,
    nonfinite: str = "raise",
    messages: torch.dtype | None = None,
    **group_options: float | tuple[float, ...],
) -> Optimizer:
    """One optimizer for every parameter of `model`, whose update code is generated from its inferred plan.

    example_inputs  what forward takes, as for `plan()`. Without them, a model that doesn't say what it eats, or whose
                    own code refuses what it says, is traced on its first real forward, before which `opt.plan` and
                    `opt.step()` raise NormcError.
    lr              the learning rate; by default the recipe's own, NormcError if it has none (`normc recipes` lists
                    them). With several recipes it may be {recipe: lr}.
    recipe          with `options`, `tare`, `overrides`, `heads`, `frontend` and `strict` as for `plan()`.
    plan            a plan to take instead of tracing: one loaded from a file, or edited.
    backend         "cpu", "cuda" or "reference" (float64, slow); by default the parameters' device decides.
    compile         True puts the generated code's cores through torch.compile, False runs all of it eagerly. By default
                    nothing is compiled on a CPU, where it saves little (docs/performance.md).
    without         rewrites to leave out, by name (docs/performance.md): the same steps, slower.
    state_dtype     torch.bfloat16 keeps states of a parameter's shape in half the memory, torch.int8 those of them that
                    average gradients or steps in about a quarter; arithmetic stays float32 (docs/memory.md).
    state_device    "cpu" keeps states in the host's memory; says nothing where parameters are on a CPU.
    stochastic_rounding  rounds what is written to bf16, states and weights, up or down by chance, right on average
                    (Gupta et al. 2015, arXiv:1502.02551): steps smaller than half a last place aren't lost.
    nonfinite       what a step does about a gradient that isn't finite: "raise" NormcError, "skip" the step, count such
                    entries as "zero", or "ignore" it. With "raise" and "skip" weights and states stay as they were, and
                    `opt.nonfinite` counts. On a GPU nothing waits: the error comes at the next step.
    messages        torch.bfloat16 halves what ranks send of directions and steps, which are rounded to eight bits of
                    precision for the way; by default messages lose nothing (docs/distributed.md).
    group_options   (momentum, weight_decay, ...) values of the param groups, by the recipe's names.
    """
    instance("model", model, nn.Module, "pass a torch.nn.Module")
    named = own_parameters(model)
    for device in {parameter.device for _, parameter in named}:
        prepare(device)
    how = build_of(
        _target_of(named) if backend is None else backend,
        without,
        state_dtype,
        stochastic_rounding,
        compile,
        nonfinite,
        state_device,
        messages,
    )
    if plan is not None:
        find_ladder(frontend)
        given = changed(plan, overrides)
        if flag("strict", strict):
            refuse_lost(given)
        asked = replace(request_of(plan), overrides=asked_changes(overrides), frontend=frontend, strict=strict)
        refuse_sparse(model)
        opt = optimizer_of(given, named, how, _rate(recipe_of(given), lr), **group_options)
        known = None if example_inputs is None else read_inputs(model, example_inputs)
        opt.origin = Source(asked).of(model, known, given)
        opt.among(model)
        return opt
    asked = request(recipe, options, tare, overrides, heads, frontend, strict)
    rate = _rate(asked.recipe, lr)
    refuse_sparse(model)
    source = Source(asked)
    inputs = own_inputs(model) if example_inputs is None else read_inputs(model, example_inputs)
    try:
        found = None if inputs is None else plan_model(model, inputs, asked)
    except ForwardError:
        if example_inputs is not None:
            raise
        found = None  # inputs were guessed, and the model's own code refuses them: its first forward has better ones
    if inputs is not None and found is not None:
        refuse_sparse(model, found)
        opt = optimizer_of(found, named, how, rate, **group_options)
        opt.origin = source.of(model, inputs, found)
        opt.among(model)
        return opt
    opt = Optimizer(named, None, Maker(asked.recipe, how), rate, **group_options)
    opt.origin = source
    opt.among(model)
    source.wait(opt, model)
    return opt


def build(
    plan: NormPlan,
    named_parameters: Iterable[tuple[str, Tensor]],
    *,
    lr: Rate = None,
    backend: str | None = None,
    compile: bool | None = None,
    without: Sequence[str] = (),
    state_dtype: torch.dtype | None = None,
    state_device: str | None = None,
    stochastic_rounding: bool = False,
    nonfinite: str = "raise",
    messages: torch.dtype | None = None,
    **options: float | tuple[float, ...],
) -> Optimizer:
    """The optimizer of a plan.

    backend  "cpu", "cuda", "reference", or a whole target ("cuda:sm_90"); None takes that of the parameters' device.
    lr       one for all, or {recipe: lr} where the plan mixes recipes; None takes the recipe's own.
    without  rewrites to leave out, by name.
    state_dtype          torch.bfloat16 for states of a parameter's shape; torch.int8 for those of them that average
                         gradients or steps, with a scale for every 256 entries; None is float32 (float64 of float64
                         weights).
    state_device         "cpu" keeps states in the host's memory, pinned where parameters are on a GPU; None beside the
                         parameters.
    stochastic_rounding  what is written to bf16, states and weights, is rounded up or down by chance, right on average
                         (Gupta et al. 2015, arXiv:1502.02551); else to the nearest.
    nonfinite  "raise", "skip", "zero" or "ignore", as for normc.compile.
    messages   torch.bfloat16 rounds directions and steps on their way between ranks; None loses nothing.
    options  values of the recipe's groups (momentum, weight_decay): one number, or a pair (matrices, the rest).
    """
    named = list(items("named_parameters", named_parameters, "pass model.named_parameters()"))
    how = build_of(
        _target_of(named) if backend is None else backend,
        without,
        state_dtype,
        stochastic_rounding,
        compile,
        nonfinite,
        state_device,
        messages,
    )
    opt = optimizer_of(plan, named, how, _rate(recipe_of(plan), lr), **options)
    opt.origin = Source(request_of(plan))
    return opt


def defer(
    recipe: Recipe,
    named_parameters: Iterable[tuple[str, Tensor]],
    *,
    lr: Rate = None,
    backend: str | None = None,
    compile: bool | None = None,
    without: Sequence[str] = (),
    state_dtype: torch.dtype | None = None,
    state_device: str | None = None,
    stochastic_rounding: bool = False,
    nonfinite: str = "raise",
    messages: torch.dtype | None = None,
    **options: float | tuple[float, ...],
) -> Optimizer:
    """An optimizer that gets its plan later, through `adopt`. Until then its groups are by number of axes.

    Arguments are those of `build`.
    """
    named = list(items("named_parameters", named_parameters, "pass model.named_parameters()"))
    how = build_of(
        _target_of(named) if backend is None else backend,
        without,
        state_dtype,
        stochastic_rounding,
        compile,
        nonfinite,
        state_device,
        messages,
    )
    return Optimizer(named, None, Maker(recipe, how), _rate(recipe, lr), **options)


def _target_of(named: Sequence[tuple[str, Tensor]]) -> str:
    kinds = {pair[1].device.type for pair in named if isinstance(pair, tuple) and isinstance(pair[-1], Tensor)}
    return "cuda" if "cuda" in kinds else "cpu"
