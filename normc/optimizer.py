"""The optimizer of a plan: a torch optimizer that runs the plan's update, and takes another when the plan changes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor, nn

from normc.arguments import instance
from normc.errors import NormcError, NormcWarning
from normc.following import FollowingOptimizer, Known
from normc.plans.plan import NormPlan
from normc.recipe.recipe import Recipe
from normc.update.program.build import Build
from normc.update.program.module import Loaded, Text
from normc.update.program.storage import WHOLE_FIX
from normc.update.runtime.run import Entry, Update
from normc.update.runtime.step import Ranked


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

    def over_ranks(
        self, plan: NormPlan, members: Mapping[str, Tensor], kept: Mapping[Tensor, Any], group: Any
    ) -> Ranked:
        """The plan's step over the ranks that parameters lie on, whose states are `kept`; or over those of `group`."""

    def counted(self, plan: NormPlan) -> NormPlan:
        """The plan, with the bytes of state that this build keeps for each row."""


class Source(Known, Protocol):
    """What plans again: the model, as far as it is remembered, and how it was planned."""

    def again(self, plan: NormPlan) -> NormPlan:
        """On what is remembered. NormcError where that is nothing."""

    def with_model(
        self, plan: NormPlan, model: nn.Module, example_inputs: Any, moved: Collection[str]
    ) -> tuple[NormPlan, Source]:
        """On this model and example; and what is remembered from now on."""

    def wait(self, opt: Optimizer, model: nn.Module) -> None:
        """Plan the optimizer at the model's first forward."""


class Awaited(Protocol):
    """A model whose first forward makes the plan."""

    @property
    def model(self) -> nn.Module | None:
        """The model, as long as it is awaited."""


class Optimizer(FollowingOptimizer):
    """A torch optimizer that runs a plan's generated update. Group 0 holds the matrices, group 1 the rest.

    `make` makes an update of a plan, now and whenever the plan changes; `origin` remembers the model. Without a plan it
    is a stand-in until `adopt`: that can be given to schedulers and hosts, and its step() raises NormcError.
    """

    origin: Source | None = None
    awaited: Awaited | None = None
    # The step over ranks, and what it was made of.
    _ranked: Ranked | None = None
    _ranked_of: tuple[object, ...] = (None,) * 4

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
        self._loaded = None if plan is None else make(plan)
        self._plan = None if plan is None else make.counted(plan)
        update = _stand_in(named, make) if self._loaded is None else self._loaded.update
        super().__init__(named, update, lr, make.build.compile, make.build.nonfinite, **options)
        for _, parameter in named:
            if hasattr(parameter, "placements") and (why := make.build.storage.why_whole(parameter.device.type)):
                self._fail(f"{why}, and parameters lie over ranks", WHOLE_FIX)

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
        instance("plan", plan, NormPlan, "give what normc.plan or normc.load returned")
        if plan.recipe != self.recipe.name:
            fix = "make the optimizer with the plan's recipe"
            self._fail(f"the plan is of recipe {plan.recipe}, the optimizer of {self.recipe.name}", fix)
        loaded = self.make(plan)
        self.take(loaded.update)
        self._plan, self._loaded = self.make.counted(plan), loaded

    def replan(self, model: nn.Module, example_inputs: Any = None) -> NormPlan:
        """Plan again what no gradient reached, on inputs that reach it; return the plan. All other rows and all state
        stay. What has a gradient now although no trace sees how becomes a fallback.

        A step does so by itself where the model, as it then stands, uses the parameter on the plan's own example. It
        can't for other inputs, nor in a copy or out of a pickle, which don't know the model. `example_inputs` are as
        for `normc.plan`. Where parameters lie over ranks, call it on every rank. NormcError if the model can't be
        traced.
        """
        if self.origin is None:
            self._fail("the optimizer doesn't know how its plan was asked for", "make it by normc.compile")
        self._by_names()
        found, origin = self.origin.with_model(self.plan, model, example_inputs, self._woken())
        self._renew(found)
        self.origin = origin
        return self.plan

    def _over_ranks(self, members: Mapping[str, Tensor]) -> Ranked | None:
        """Made anew where parameters, states or the update are others than at the last step."""
        if self._wrapper is not None:
            self._take_group()
        seen = (members, self.state, self.update, self.group)
        if any(a is not b for a, b in zip(seen, self._ranked_of, strict=True)):
            self._ranked = None
            self._ranked_of = seen
            if _lie_over_ranks(members) or self._shares_work():
                self._ranked = self.make.over_ranks(self.plan, members, self.state, self.group)
                if not _lie_over_ranks(members) and not self._ranked.shares:
                    self._ranked = None  # nothing is worth another's work
        return self._ranked

    def _shares_work(self) -> bool:
        """Whether others have the same parameters, and step some of them for this process. Where states can't be cut,
        each steps all.
        """
        if self.group is None or torch.distributed.get_world_size(self.group) < 2:
            return False
        return not any(self.build.storage.why_whole(kind) for kind in self._device_types)

    def _renew(self, plan: NormPlan) -> None:
        """Take a plan some of whose rows have changed."""
        if plan is self._plan:
            return
        loaded = self.make(plan)
        self.take(loaded.update)
        self._plan, self._loaded = self.make.counted(plan), loaded

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

    def explain(self, pattern: str, width: int | None = None) -> str:
        """Everything that the plan knows of the rows whose name or alias is `pattern`, or matches it as a glob: their
        facts with the reasons, uses, norm, scale and step. The text of `normc plan --explain`, `width` columns wide; by
        default as wide as the terminal. NormcError if no row matches, and before the plan is known.
        """
        return self.plan.explain(pattern, width)

    def _hashes(self) -> set[str]:
        return set() if self._plan is None else {self._plan.checksum}

    def _fail(self, problem: str, fix: str) -> NoReturn:
        raise NormcError(problem, fix)

    def _warning(self) -> type[Warning]:
        return NormcWarning

    def __getstate__(self) -> dict[str, Any]:
        """The plan stands for the generated code, which is made again from it. Before there is one, the model goes
        along, so that the copy's first forward plans the copy.
        """
        plan = None if self._plan is None else replace(self._plan)  # without what it has cached, some of it unpicklable
        waiting = {} if self.awaited is None else {"awaited": self.awaited.model}
        own = {
            "_plan": plan,
            "origin": self.origin,
            "make": self.make,
            "_ranked": None,
            "_ranked_of": (None,) * 4,
        }
        state = {**super().__getstate__(), **own, **waiting}
        return {name: value for name, value in state.items() if name not in ("group", "_wrapper")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        model = state.pop("awaited", None)
        super().__setstate__(state)
        if model is not None and self.origin is not None and "_forward_pre_hooks" in vars(model):
            self.origin.wait(self, model)

    def _rebuilt(self) -> Update:
        if self._plan is None:
            self._loaded = None
            groups = self.param_groups
            named = [pair for group in groups for pair in zip(group["param_names"], group["params"], strict=True)]
            return _stand_in(named, self.make)
        self._loaded = self.make(self._plan)
        return self._loaded.update


def _lie_over_ranks(members: Mapping[str, Tensor]) -> bool:
    return any(hasattr(parameter, "placements") for parameter in members.values())


def _stand_in(named: list[tuple[str, Tensor]], make: Maker) -> Update:
    """What the optimizer holds before its plan: groups by number of axes, no buckets."""
    recipe, kept = make.recipe, make.build.storage
    entries = {
        pair[0]: Entry(tuple(pair[1].shape), 0 if pair[1].dim() >= 2 else 1, "not planned")
        for pair in named
        if isinstance(pair, tuple) and isinstance(pair[-1], Tensor)
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
        state=kept.like,
        stochastic=kept.stochastic,
        offload=kept.offload,
    )
