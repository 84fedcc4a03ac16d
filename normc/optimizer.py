"""The optimizer that a plan becomes: lowered, rewritten, generated, and run on a model's parameters."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn

from normc.analyse import to_print
from normc.backends.backend import backends
from normc.errors import NormcError, NormcWarning
from normc.passes.rewrites.batch import batch
from normc.passes.rewrites.dtypes import dtypes
from normc.passes.rewrites.fuse import fuse
from normc.passes.rewrites.kernels import Device, kernels
from normc.passes.rewrites.laws import laws
from normc.passes.rewrites.lower import lower
from normc.passes.rewrites.stack import stack
from normc.planning import Planned, inputs_of, planner_of
from normc.recipe.by_name import recipes
from normc.recipe.recipe import Recipe
from normc.update.program.module import Loaded, Text
from normc.update.program.program import Program, annotate
from normc.update.program.storage import PLAIN, Storage, check_kinds, storage
from normc.update.program.switches import SWITCHABLE as SWITCHABLE
from normc.update.program.switches import checked
from normc.update.runtime.run import Entry, Update
from normc.update.runtime.step import UpdateOptimizer

if TYPE_CHECKING:
    from normc.plans.plan import NormPlan


def recipe_of(plan: NormPlan) -> Recipe:
    """The recipe that a plan names, with the plan's options."""
    return recipes[plan.recipe].configure(**dict(plan.options))


def program_of(plan: NormPlan, target: str = "cpu", without: Sequence[str] = (), kept: Storage = PLAIN) -> Program:
    """The update program of a plan for a target; `decisions` says what each rewrite did and why.

    `without` are rewrites to leave out, by name; `kept` is how states and weights are. NormcError for a rewrite that
    the target's backend hasn't, and for states whose dtype can't be chosen.
    """
    backend = backends[target.split(":")[0]]
    program = replace(lower(plan, recipe_of(plan)), without=checked(without, backend.name), storage=kept)
    check_kinds(kept, ((chain.row.name, kind) for chain in program.chains for _, kind in chain.states))
    if not backend.batched:
        return program
    target = backend.target(target)
    dtype, why = backend.polar_dtype(target)
    in_kernels = backend.kernels and "kernels" not in program.without
    rewrites: dict[str, Callable[[Program], Program]] = {
        "stack": stack,
        "laws": laws,
        "fuse": lambda program: fuse(program, in_kernels),
        "dtypes": lambda program: dtypes(program, dtype, why),
    }
    for name, rewrite in rewrites.items():
        program = rewrite(program) if name not in program.without else program
    program = program.with_chains(tuple(annotate(chain) for chain in program.chains), [])
    return kernels(batch(program, backend.at_once), Device(backend.name, target, backend.runs_kernels(target)))


def generate(plan: NormPlan, target: str = "cpu", without: Sequence[str] = (), kept: Storage = PLAIN) -> Loaded:
    """A plan's update, loaded, and its source. Targets: cpu, cpu:fp32, cpu:bf16, cuda, cuda:sm_90, reference.

    What NORMC_PRINT names of the rewrites is printed to stderr.
    """
    backend = backends[target.split(":")[0]]
    target = backend.target(target)
    program = program_of(plan, target, without, kept)
    wanted = to_print()
    for decision in program.decisions:
        if wanted & {decision.rule, "all"}:
            saves = f", saves {decision.saving}" if decision.saving else ""
            print(f"{decision.rule}  {decision.what}   because {decision.why}{saves}", file=sys.stderr)
    return backend.load(program, recipe_of(plan), target)


class Optimizer(UpdateOptimizer):
    """A torch optimizer that runs a plan's generated update. Group 0 holds the matrices, group 1 the rest.

    Made by `build`, or by `defer` as a stand-in until its plan is known: that can be given to schedulers and hosts, and
    its step() raises NormcError. `target` is the backend, or one of its targets; `without` are rewrites left out;
    `kept` is how states and weights are.
    """

    without: tuple[str, ...] = ()
    kept = PLAIN
    planned: Planned | None = None

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, Tensor]],
        recipe: Recipe,
        plan: NormPlan | None,
        target: str,
        lr: float | Tensor | Mapping[str, float],
        compile: bool,
        options: Mapping[str, float | tuple[float, ...]],
        without: Sequence[str] = (),
        kept: Storage = PLAIN,
    ) -> None:
        named = list(named_parameters)
        self.without = checked(without, target.split(":")[0])
        self.kept = kept
        self.recipe = recipe
        self.target = target
        self._plan = plan
        self._loaded = None if plan is None else generate(plan, target, self.without, kept)
        update = _stand_in(named, recipe, kept) if self._loaded is None else self._loaded.update
        super().__init__(named, update, lr, compile, **options)

    def adopt(self, plan: NormPlan) -> None:
        """Generate the plan's update and take it; parameters move between the two groups in place."""
        if plan.recipe != self.recipe.name:
            fix = "make the optimizer with the plan's recipe"
            self._fail(f"the plan is of recipe {plan.recipe}, the optimizer of {self.recipe.name}", fix)
        loaded = generate(plan, self.target, self.without, self.kept)
        self.take(loaded.update)
        self._plan, self._loaded = plan, loaded

    def replan(self, model: nn.Module, example_inputs: Any = None) -> NormPlan:
        """Plan again what no gradient reached, on inputs that reach it; return the plan. All other rows and all state
        stay. What has a gradient now although no trace sees how becomes a fallback.

        A step does so by itself where the model, as it then stands, uses the parameter on the plan's own example. It
        can't for other inputs, nor in a copy or out of a pickle, which don't know the model. `example_inputs` are as
        for `normc.plan`. NormcError if the model can't be traced.
        """
        planner = self.planned.planner if self.planned is not None else planner_of(self.plan, None, "recorder", False)
        inputs = inputs_of(model, example_inputs)
        self._by_names()
        found = planner.again(self.plan, model, inputs, self._woken())
        self._renew(found)
        self.planned = Planned.of(planner, model, inputs, found)
        return found

    def _renew(self, plan: NormPlan) -> None:
        """Take a plan some of whose rows have changed."""
        if plan is self._plan:
            return
        loaded = generate(plan, self.target, self.without, self.kept)
        for group in self.param_groups:
            group["plan"] = loaded.update.plan
        self.take(loaded.update)
        self._plan, self._loaded = plan, loaded

    def _wake(self, names: Sequence[str]) -> None:
        """Plan again for what has a gradient now, if the model as it now stands uses it on the plan's example."""
        reason = "nor does one in the model as it now stands, on the example that it was planned with"
        try:
            found = self.planned.again(self.plan) if self.planned is not None else self.plan
        except NormcError as problem:
            found, reason = self.plan, f"and can't be made again: {str(problem).splitlines()[0]}"
        lost = [name for name in names if found[name].role == "unused"]
        if lost:
            self._refuse_gradient(lost, reason, "call opt.replan(model, inputs) with this step's inputs, then step()")
        self._renew(found)

    @property
    def plan(self) -> NormPlan:
        """The plan. NormcError before it is known."""
        if self._plan is None:
            self._fail("the plan is not known yet", "run the model forward once")
        return self._plan

    @property
    def text(self) -> Text:
        """The generated module in parts. NormcError before the plan is known."""
        if self._loaded is None:
            self._fail("the plan is not known yet", "run the model forward once")
        return self._loaded.text

    @property
    def source(self) -> str:
        """The generated module, as it runs."""
        return self.text.module

    def _fail(self, problem: str, fix: str) -> NoReturn:
        raise NormcError(problem, fix)

    def _warning(self) -> type[Warning]:
        return NormcWarning

    def __getstate__(self) -> dict[str, Any]:
        """The plan stands for the generated code, which is made again from it."""
        plan = None if self._plan is None else replace(self._plan)  # without what it has cached, some of it unpicklable
        how = {"target": self.target, "recipe": self.recipe, "without": self.without, "kept": self.kept}
        return {**super().__getstate__(), "_plan": plan, "planned": self.planned, **how}

    def _rebuilt(self) -> Update:
        if self._plan is None:
            self._loaded = None
            groups = self.param_groups
            named = [pair for group in groups for pair in zip(group["param_names"], group["params"], strict=True)]
            return _stand_in(named, self.recipe, self.kept)
        self._loaded = generate(self._plan, self.target, self.without, self.kept)
        return self._loaded.update


def build(
    plan: NormPlan,
    named_parameters: Iterable[tuple[str, Tensor]],
    *,
    lr: float | Tensor | Mapping[str, float],
    backend: str | None = None,
    compile: bool = True,
    without: Sequence[str] = (),
    state_dtype: torch.dtype | None = None,
    stochastic_rounding: bool = False,
    **options: float | tuple[float, ...],
) -> Optimizer:
    """The optimizer of a plan.

    backend  "cpu", "cuda", "reference", or a whole target ("cuda:sm_90"); None takes that of the parameters' device.
    lr       one for all, or {recipe: lr} where the plan mixes recipes.
    without  rewrites to leave out, by their names in SWITCHABLE.
    state_dtype          torch.bfloat16 for states of a parameter's shape; None is float32 (float64 of float64 weights).
    stochastic_rounding  what is written to bf16, states and weights, is rounded up or down by chance, right on average
                         (Gupta et al. 2015, arXiv:1502.02551); else to the nearest.
    options  values of the recipe's groups (momentum, weight_decay): one number, or a pair (matrices, the rest).
    """
    named = list(named_parameters)
    kept = storage(state_dtype, stochastic_rounding)
    return Optimizer(named, recipe_of(plan), plan, backend or _target_of(named), lr, compile, options, without, kept)


def defer(
    recipe: Recipe,
    named_parameters: Iterable[tuple[str, Tensor]],
    *,
    lr: float | Tensor | Mapping[str, float],
    backend: str | None = None,
    compile: bool = True,
    without: Sequence[str] = (),
    state_dtype: torch.dtype | None = None,
    stochastic_rounding: bool = False,
    **options: float | tuple[float, ...],
) -> Optimizer:
    """An optimizer that gets its plan later, through `adopt`. Until then its groups are by number of axes."""
    named = list(named_parameters)
    kept = storage(state_dtype, stochastic_rounding)
    return Optimizer(named, recipe, None, backend or _target_of(named), lr, compile, options, without, kept)


def _target_of(named: list[tuple[str, Tensor]]) -> str:
    kinds = {pair[1].device.type for pair in named if isinstance(pair, tuple)}
    return "cuda" if "cuda" in kinds else "cpu"


def _stand_in(named: list[tuple[str, Tensor]], recipe: Recipe, kept: Storage) -> Update:
    """What the optimizer holds before its plan: groups by number of axes, no buckets."""
    entries = {
        pair[0]: Entry(tuple(pair[1].shape), 0 if pair[1].dim() >= 2 else 1, "not planned")
        for pair in named
        if isinstance(pair, tuple)
    }
    return Update(
        "",
        recipe.name,
        recipe.defaults,
        entries,
        {},
        (),
        ready=False,
        labels=recipe.labels,
        state=kept.state,
        stochastic=kept.stochastic,
    )
