"""A recipe: the heavy ball. What a user writes is this file, with `recipes.add` at its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from normc.recipe.by_name import recipes
from normc.recipe.recipe import EntryByEntry, Option, Values
from normc.recipe.stages.apply import Descend
from normc.recipe.stages.build import Stage
from normc.recipe.stages.moments import HeavyBall
from normc.recipe.stages.size import Radius


class Ball(EntryByEntry):
    """The running sum of gradients, without decay."""

    name: ClassVar[str] = "ball"
    summary: ClassVar[str] = "a running sum of gradients"
    source: ClassVar[str] = "Polyak 1964"
    formula: ClassVar[str] = "m = momentum m + g;  w = w - lr m"
    known: ClassVar[Mapping[str, Option]] = {}
    defaults: ClassVar[tuple[Values, ...]] = ({"momentum": 0.5}, {"momentum": 0.5})

    def chain(self) -> tuple[Stage, ...]:
        """Sum, step."""
        return (HeavyBall(False, 0.0), Radius(), Descend())


recipes.add("ball", Ball(), __name__)
