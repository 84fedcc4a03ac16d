"""What a plan was made from, as far as a plan needs to know of it: to say what it would be at another size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol, TypeVar

import sympy

from normc.plans.sharpness import Sharpness

Plan = TypeVar("Plan")


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


class Origin(Protocol[Plan]):
    """A traced model and what was asked of it."""

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        """The model's sizes by name."""

    def at(self, plan: Plan, sizes: Mapping[str, int]) -> Plan:
        """The plan with other sizes. NormcError for a name or a size that can't be."""

    def law(self, plan: Plan, name: str, most: int | None = 4000) -> Law | None:
        """The scale of the row of that name. None where the model has more ops than `most`: it takes several plans."""

    def sharpness(self, plan: Plan) -> Sharpness:
        """Bounds on the model's second derivatives, by the plan's targets."""

    def overridden(self, pattern: str, change: Mapping[str, object]) -> Origin[Plan]:
        """The same, for a plan with one more override."""
