"""What the user asked of the analysis; a fact that is there before the first pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from normc.recipe.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Request:
    """The recipe, its options filled in.

    heads   whether every attention head is a block of its own
    tare    {glob: the mass that all that match have together, before masses are made to sum to 1}
    """

    recipe: Recipe
    heads: bool = False
    tare: Mapping[str, float] = field(default_factory=dict)
