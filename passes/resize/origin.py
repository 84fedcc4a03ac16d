"""A plan's trace and what was asked of it: the plan at another size."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from normc.arguments import whole
from normc.errors import NormcError
from normc.model.facts import Facts, Log, analyses
from normc.model.trace.graph import ModelGraph
from normc.passes.analyses.flow import Flow
from normc.passes.analyses.request import Request
from normc.passes.analyses.sharpness import AVERAGES, sharpness
from normc.passes.resize.depth import deepened
from normc.passes.resize.dimensions import Named, dimensions, new_sizes
from normc.passes.resize.formula import law
from normc.passes.resize.multipliers import Multiplier, multipliers
from normc.passes.resize.repeat import Stack, stacks
from normc.passes.resize.stretch import stretched
from normc.passes.resize.walk import Space, walked
from normc.plans.at import Dimension, Law
from normc.plans.plan import NormPlan
from normc.plans.sharpness import Sharpness, unknown

_NEEDED = ("bind", "flow", "layout", "role")
Change = Mapping[str, Any]


@dataclass(frozen=True)
class Traced:
    """A model's graph, the request, what makes a plan of the two, and the overrides that followed.

    `facts` are kept where a sharpness can be made of them.
    """

    model: ModelGraph
    request: Request
    analyse: Callable[[ModelGraph, Request], NormPlan]
    facts: Facts | None = None
    overrides: tuple[tuple[str, Change], ...] = ()
    _depths: dict[int, NormPlan] = field(default_factory=dict)

    def overridden(self, pattern: str, change: Mapping[str, object]) -> Traced:
        """The same with one more override."""
        return replace(self, overrides=(*self.overrides, (pattern, change)), _depths={})

    def sharpness(self, plan: NormPlan) -> Sharpness:
        """Bounds on the model's second derivatives, by the plan's targets."""
        if self.facts is None:
            return unknown(AVERAGES)
        return sharpness(self.model, self.facts, {row.name: row.target for row in plan.rows if not row.frozen})

    def __deepcopy__(self, memo: dict[int, Any]) -> Traced:
        return self

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(None), ()

    @cached_property
    def _space(self) -> Space:
        return walked(self.model.graph)

    @cached_property
    def _named(self) -> tuple[Named, ...]:
        facts = _facts(self.model, self.request)
        repeated = [stack for stack in self._stacks.values() if not stack.problem]
        return dimensions(self.model, self._space, facts, repeated)

    @cached_property
    def _stacks(self) -> dict[str, Stack]:
        return by_name(stacks(self.model))

    @cached_property
    def dimensions(self) -> tuple[Dimension, ...]:
        """Sizes of the model by name, and how often its blocks repeat."""
        found = [Dimension(named.name, named.size, named.axes, named.follows) for named in self._named]
        found += [
            Dimension(name, stack.length, tuple(f"{prefix}.*".lstrip(".") for prefix in stack.prefixes), False)
            for name, stack in self._stacks.items()
            if not stack.problem
        ]
        return tuple(found)

    def at(self, plan: NormPlan, sizes: Mapping[str, int]) -> NormPlan:
        """The plan with other sizes. NormcError for a name or a size that can't be."""
        if self.model.others:
            raise NormcError(
                f"{self.model.model} is planned on {len(self.model.others) + 1} paths, which can't be resized together",
                "plan the model of that size itself",
            )
        for name, size in sizes.items():
            self._check(name, size)
        model, notes = self._wide({name: size for name, size in sizes.items() if name not in self._stacks})
        for name, size in sizes.items():
            if name in self._stacks:
                model, said = _deep(model, self.request, name, size)
                notes += said
        made = self.analyse(model, self.request)
        for pattern, change in self.overrides:
            made = made.override(pattern, **change)
        return replace(made, notes=(*made.notes, *notes))

    def law(self, plan: NormPlan, name: str, most: int | None = 4000) -> Law | None:
        """The scale of a row as a formula. None where the model has more ops than `most`: it takes several plans."""
        if most is not None and len(self.model.graph.nodes) > most:
            return None
        repeated = [] if self.model.others else [stack for stack in self._stacks.values() if not stack.problem]
        found = law(plan, plan[name], repeated[0] if len(repeated) == 1 else None, self._at_depth)
        words = dict.fromkeys(number.words() for number in self._multipliers)
        read = f"; residual multipliers {', '.join(words)}" if found.note and words else ""
        return found._replace(note=f"{found.note}{read}")

    @cached_property
    def _multipliers(self) -> list[Multiplier]:
        """Numbers on residual streams that follow a depth."""
        flow = _facts(self.model, self.request, ("bind", "flow"))[Flow]
        repeated = [stack for stack in self._stacks.values() if not stack.problem]
        return [number for stack in repeated for number in multipliers(stack, flow)[0]]

    def _at_depth(self, plan: NormPlan, length: int) -> NormPlan:
        if length not in self._depths:
            name = next(name for name, stack in self._stacks.items() if not stack.problem)
            self._depths[length] = self.at(plan, {name: length})
        return self._depths[length]

    def _check(self, name: str, size: int) -> None:
        whole(name, size, 1, "give a whole number, 1 or more")
        known = [named.name for named in self._named]
        if name in known or name in self._stacks:
            return
        if name == "n_layer" and self._stacks:
            raise NormcError(
                f"{self.model.model} has {len(self._stacks)} stacks of blocks", f"say which: {', '.join(self._stacks)}"
            )
        if name == "n_layer":
            raise NormcError(f"{self.model.model} repeats no blocks", "plan the model of that depth itself")
        listed = [f"{d.name} {d.size}" for d in self.dimensions]
        near = difflib.get_close_matches(name, [*known, *self._stacks], n=1)
        guess = f"did you mean {near[0]!r}? " if near else ""
        raise NormcError(f"{self.model.model} has no dimension {name!r}", f"{guess}it has {', '.join(listed)}")

    def _wide(self, sizes: Mapping[str, int]) -> tuple[ModelGraph, list[str]]:
        if not sizes:
            return self.model, []
        new, notes, problem = new_sizes(self._named, sizes)
        if problem:
            message, _, fix = problem.partition("; ")
            raise NormcError(message, fix)
        model, said = stretched(self.model, self._space, new, {number.node for number in self._multipliers})
        return model, [*notes, *said]


def by_name(found: tuple[Stack, ...]) -> dict[str, Stack]:
    """`n_layer` for the only stack that repeats, else each by its prefix."""
    good = [stack for stack in found if not stack.problem]
    if len(good) == 1 or len(found) == 1:
        return {"n_layer": (good or list(found))[0]}
    return {stack.name or "layers": stack for stack in good or found}


def _facts(model: ModelGraph, request: Request, passes: tuple[str, ...] = _NEEDED) -> Facts:
    facts, log = Facts().plus(request), Log()
    for name in passes:
        facts = facts.plus(analyses[name](model, facts, log))
    return facts


def _deep(model: ModelGraph, request: Request, name: str, length: int) -> tuple[ModelGraph, list[str]]:
    stack = by_name(stacks(model))[name]
    if stack.problem:
        return deepened(model, stack, length), []
    flow = _facts(model, request, ("bind", "flow"))[Flow]
    numbers, notes = multipliers(stack, flow)
    rest = [stack.numbers[i] for i in range(stack.length) if i not in stack.repeating]
    if rest:
        which = ", ".join(map(str, rest))
        notes.append(f"of the blocks of {stack.name or 'the model'}, these are unlike the others and stay: {which}")
    return deepened(model, stack, length, numbers), notes if length != stack.length else []
