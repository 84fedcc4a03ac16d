"""What a plan was made from, as far as a plan needs to know of it: to say what it would be at another size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

import sympy

from normc.errors import NormcError
from normc.plans.sharpness import Sharpness

if TYPE_CHECKING:
    from normc.plans.plan import NormPlan


class Dimension(NamedTuple):
    """A size of the model by name. `axes` are the parameter axes that have it, as `name[axis]`, numbers as *.

    `follows`: whether it keeps its ratio to the first dimension where only that is given another size.
    """

    name: str
    size: int
    axes: tuple[str, ...]
    follows: bool


class Law(NamedTuple):
    """A row's scale: `formula` in d_out, d_in, k and L, and as `text`; `note` says which blocks L counts, or that the
    row follows no law of depth.
    """

    formula: sympy.Expr
    text: str
    note: str = ""


class Origin(Protocol):
    """A traced model and what was asked of it."""

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        """The model's sizes by name."""

    def at(self, plan: NormPlan, sizes: Mapping[str, int]) -> NormPlan:
        """The plan with other sizes. NormcError for a name or a size that can't be."""

    def law(self, plan: NormPlan, name: str, most: int | None = 4000) -> Law | None:
        """The scale of the row of that name. None where the model has more ops than `most`: it takes several plans."""

    def sharpness(self, plan: NormPlan) -> Sharpness:
        """Bounds on the model's second derivatives, by the plan's targets."""

    def overridden(self, pattern: str, change: Mapping[str, object]) -> Origin:
        """The same, for a plan with one more override."""


def origin_of(plan: NormPlan) -> Origin:
    """What the plan was made from. NormcError where that isn't known."""
    if plan.origin is None:
        raise NormcError(
            f"the plan of {plan.model} holds no trace: it was loaded from a file or put together by hand",
            "make it with normc.plan, or at its new size",
        )
    return plan.origin
