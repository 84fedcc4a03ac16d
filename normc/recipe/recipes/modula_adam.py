"""Modula's Adam: entry by entry without eps, then each norm by mass and sensitivity (Large et al., 2405.14813)."""

from __future__ import annotations

from typing import ClassVar

from normc.plans.balance import balanced
from normc.recipe.by_name import recipes
from normc.recipe.recipe import Values
from normc.recipe.recipes.modular import Modula
from normc.recipe.stages.build import Stage
from normc.recipe.stages.moments import WarmEma
from normc.recipe.stages.norm import Rescale
from normc.recipe.stages.precondition import Floor, Precondition, Warm


class ModulaAdam(Modula):
    """Adam's direction under Modula's norms. As in the paper's code, nothing is added to the root, zero over zero is
    zero, and both averages take their first gradient whole. (A square too small for float32 is the smallest one, where
    the paper's code moves nothing.)
    """

    name: ClassVar[str] = "modula-adam"
    summary: ClassVar[str] = "Adam without eps, each norm set by mass and sensitivity, bounded at the output"
    source: ClassVar[str] = "arXiv 2405.14813 and its package modula"
    formula: ClassVar[str] = (
        "m = m + (1 - momentum)^((t - 1) / t) (g - m);  v = v + (1 - beta2)^((t - 1) / t) (g^2 - v);  "
        "d = m / sqrt(v);  w = w - lr scale d / norm(d);  w = (1 - lr weight_decay target) w;  target = mass / (S R)"
    )
    defaults: ClassVar[tuple[Values, Values]] = (
        {"momentum": 0.9, "weight_decay": 0.01, "beta2": 0.99},
        {"momentum": 0.9, "weight_decay": 0.01, "beta2": 0.99},
    )

    def _direction(self) -> tuple[Stage, ...]:
        return WarmEma(), Precondition(memory=Warm(), by=Floor()), Rescale()


recipes.add("modula-adam", ModulaAdam(), __name__)
balanced.add("modula-adam", ModulaAdam().state_bytes, __name__)
