"""The optimizer of a plan: a torch optimizer that runs the plan's update, and takes another when the plan changes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from torch import Tensor, nn

from normc.errors import NormcError, NormcWarning
from normc.recipe.recipe import Recipe
from normc.update.program.build import Build
from normc.update.program.module import Loaded, Text
from normc.update.runtime.run import Entry, Update
from normc.update.runtime.step import UpdateOptimizer

if TYPE_CHECKING:
    from normc.plans.plan import NormPlan


class Maker(Protocol):
    """What makes an update of a plan: the pipeline, for one recipe and one build."""

    @property
    def recipe(self) -> Recipe:
        """Of every plan."""

    @property
    def build(self) -> Build:
        """Of every update."""

    def __call__(self, plan: NormPlan) -> Loaded:
        """The plan's update."""


class Source(Protocol):
    """What plans again: the model, as far as it is remembered, and how it was planned."""

    def again(self, plan: NormPlan) -> NormPlan:
        """On what is remembered. NormcError where that is nothing."""

    def with_model(
        self, plan: NormPlan, model: nn.Module, example_inputs: Any, moved: Collection[str]
    ) -> tuple[NormPlan, Source]:
        """On this model and example; and what is remembered from now on."""


class Optimizer(UpdateOptimizer):
    """A torch optimizer that runs a plan's generated update. Group 0 holds the matrices, group 1 the rest.

    `make` makes an update of a plan, now and whenever the plan changes; `origin` remembers the model. Without a plan it
    is a stand-in until `adopt`: that can be given to schedulers and hosts, and its step() raises NormcError.
    """

    origin: Source | None = None

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, Tensor]],
        plan: NormPlan | None,
        make: Maker,
        lr: float | Tensor | Mapping[str, float],
        **options: float | tuple[float, ...],
    ) -> None:
        named = list(named_parameters)
        self.make = make
        self._plan = plan
        self._loaded = None if plan is None else make(plan)
        update = _stand_in(named, make) if self._loaded is None else self._loaded.update
        super().__init__(named, update, lr, make.build.compile, make.build.nonfinite, **options)

    @property
    def recipe(self) -> Recipe:
        """The recipe, with its options."""
        return self.make.recipe

    @property
    def build(self) -> Build:
        """How the update is built."""
        return self.make.build

    def adopt(self, plan: NormPlan) -> None:
        """Generate the plan's update and take it; parameters move between the two groups in place."""
        if plan.recipe != self.recipe.name:
            fix = "make the optimizer with the plan's recipe"
            self._fail(f"the plan is of recipe {plan.recipe}, the optimizer of {self.recipe.name}", fix)
        loaded = self.make(plan)
        self.take(loaded.update)
        self._plan, self._loaded = plan, loaded

    def replan(self, model: nn.Module, example_inputs: Any = None) -> NormPlan:
        """Plan again what no gradient reached, on inputs that reach it; return the plan. All other rows and all state
        stay. What has a gradient now although no trace sees how becomes a fallback.

        A step does so by itself where the model, as it then stands, uses the parameter on the plan's own example. It
        can't for other inputs, nor in a copy or out of a pickle, which don't know the model. `example_inputs` are as
        for `normc.plan`. NormcError if the model can't be traced.
        """
        if self.origin is None:
            self._fail("the optimizer doesn't know how its plan was asked for", "make it by normc.compile")
        self._by_names()
        found, origin = self.origin.with_model(self.plan, model, example_inputs, self._woken())
        self._renew(found)
        self.origin = origin
        return found

    def _renew(self, plan: NormPlan) -> None:
        """Take a plan some of whose rows have changed."""
        if plan is self._plan:
            return
        loaded = self.make(plan)
        for group in self.param_groups:
            group["plan"] = loaded.update.plan
        self.take(loaded.update)
        self._plan, self._loaded = plan, loaded

    def _wake(self, names: Sequence[str]) -> None:
        """Plan again for what has a gradient now, if the model as it now stands uses it on the plan's example."""
        reason = "nor does one in the model as it now stands, on the example that it was planned with"
        try:
            found = self.origin.again(self.plan) if self.origin is not None else self.plan
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
        return {**super().__getstate__(), "_plan": plan, "origin": self.origin, "make": self.make}

    def _rebuilt(self) -> Update:
        if self._plan is None:
            self._loaded = None
            groups = self.param_groups
            named = [pair for group in groups for pair in zip(group["param_names"], group["params"], strict=True)]
            return _stand_in(named, self.make)
        self._loaded = self.make(self._plan)
        return self._loaded.update


def _stand_in(named: list[tuple[str, Tensor]], make: Maker) -> Update:
    """What the optimizer holds before its plan: groups by number of axes, no buckets."""
    recipe, kept = make.recipe, make.build.storage
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
