"""Hyperball: matrices keep the Frobenius norm that they start with, and steps are a share of it; AdamW for the rest
(Wen et al., Hyperball Optimization, arXiv 2606.16899).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import sympy

from normc.recipe.by_name import recipes
from normc.recipe.recipe import Option, Values
from normc.recipe.recipes.muon import Muon
from normc.recipe.stages.apply import Sphere
from normc.recipe.stages.build import Stage
from normc.recipe.stages.norm import Lmo
from normc.recipe.stages.precondition import AdamDirection
from normc.recipe.stages.size import Radius

_VALUES = {"beta2": 0.95, "eps": 1e-8}


class Hyperball(Muon):
    """Every input and hidden matrix, each block apart, moves along a sphere by Adam's or Muon's direction.

    direction   adam or muon. Its size doesn't matter: lr is the step's length over that of the weights.
    A matrix that starts at zero (LoRA's B, zeroed projections) has no sphere. It moves inside a ball, by steps of lr
    times the ball's radius: the Frobenius norm that a semi-orthogonal start of norm 1 from RMS to RMS would have given
    it. There is no weight decay for matrices.
    """

    name: ClassVar[str] = "hyperball"
    summary: ClassVar[str] = "matrices on the sphere that they start on, AdamW for the rest"
    source: ClassVar[str] = "Wen et al., arXiv 2606.16899"
    formula: ClassVar[str] = "w = R unit(w - lr R unit(u)), R = ||w_0||, u by Adam or Muon;  AdamW for the rest"
    known: ClassVar[Mapping[str, Option]] = {
        "direction": "adam",
        "nesterov": True,
        "polynomial": "keller",
        "ns_steps": 5,
        "adamw_lr_ratio": 1.0,
        "decay": "decoupled",
    }
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"direction": ("adam", "muon")}
    defaults: ClassVar[tuple[Values, ...]] = (
        _VALUES | {"momentum": 0.9, "weight_decay": 0.0},
        _VALUES | {"momentum": 0.9, "weight_decay": 0.0},
    )
    rule: ClassVar[str] = "sphere"

    def _adjusted(self) -> sympy.Expr:
        return sympy.Integer(1)

    def matrices(self) -> tuple[Stage, ...]:
        """A direction, and the step along the sphere."""
        if self.text("direction") == "adam":
            return (AdamDirection(), Radius(), Sphere())
        return (self.moment(), Lmo(self.steps()), Sphere())


recipes.add("hyperball", Hyperball(), __name__)
