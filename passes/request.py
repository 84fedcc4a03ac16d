"""What the user asked of the analysis; a fact that is there before the first pass."""

from __future__ import annotations

from dataclasses import dataclass

from normc.recipes import Recipe


@dataclass(frozen=True, slots=True)
class Request:
    """The recipe, its options filled in; `heads`: whether every attention head is a block of its own."""

    recipe: Recipe
    heads: bool = False
