"""What is asked of a plan; a fact that is there before the first pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from normc.recipe.recipe import Recipe

# {glob: a norm, or the fields of a row}, applied in order.
Overrides = Mapping[str, str | Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Request:
    """All that says how a model is planned, but for the model and its inputs.

    recipe     with its options filled in
    heads      whether every attention head is a block of its own
    tare       {glob: the mass that all that match have together, before masses are made to sum to 1}
    overrides  of the rows that come out
    frontend   what runs the model's code
    strict     whether rows that couldn't be inferred, or get no gradient, are refused
    """

    recipe: Recipe
    heads: bool = False
    tare: Mapping[str, float] = field(default_factory=dict)
    overrides: Overrides = field(default_factory=dict)
    frontend: str = "recorder"
    strict: bool = False

    def __setstate__(self, state: list[Any]) -> None:
        """Out of a pickle; of one that had fewer fields, the rest are as by default."""
        rest = Request(state[0])
        for index, item in enumerate(fields(self)):
            object.__setattr__(self, item.name, state[index] if index < len(state) else getattr(rest, item.name))
