"""Muown: Muon on the directions of rows, Adam on their lengths; AdamW for the rest (Lion et al., arXiv 2605.10797)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import sympy

from normc.recipe.by_name import recipes
from normc.recipe.recipe import Option, Values
from normc.recipe.recipes.muon import ADJUSTMENTS, Muon, adjustment
from normc.recipe.stages.build import Stage
from normc.recipe.stages.norm import Lmo
from normc.recipe.stages.rows import AcrossRows, RowStep

_VALUES = {"weight_decay": 0.0, "beta2": 0.95, "eps": 1e-8}


class Muown(Muon):
    """Every input and hidden matrix as rows w_i = r_i v_i / ||v_i||: Newton-Schulz moves v, Adam the lengths r.

    length_momentum   Adam's first beta for the lengths; `momentum` is that of directions.
    As the authors' code has it: lr is that of both, directions start as the rows themselves, weight decay takes
    lr weight_decay of the old weights off the new ones. Where the code sums gradients this averages them, which is the
    same to an LMO. A row that starts at zero, which the code divides by, takes Muon's plain step until it has a
    direction. `decay` is the rest's.
    """

    name: ClassVar[str] = "muown"
    summary: ClassVar[str] = "Muon on the directions of rows, Adam on their lengths, AdamW for the rest"
    source: ClassVar[str] = "arXiv 2605.10797, and its authors' code"
    formula: ClassVar[str] = (
        "u = w / r;  m = momentum m + (1 - momentum) r / ||v|| (g - (g . u) u);  v = ||v|| u - lr scale "
        "polar(nesterov(m));  r = r - lr Adam(g . u);  w = r v / ||v|| - lr weight_decay w, row by row;  "
        "AdamW for the rest"
    )
    known: ClassVar[Mapping[str, Option]] = {
        "adjust_lr": "match_rms_adamw",
        "nesterov": True,
        "polynomial": "keller",
        "ns_steps": 5,
        "length_momentum": 0.9,
        "adamw_lr_ratio": 1.0,
        "decay": "decoupled",
    }
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"adjust_lr": tuple(ADJUSTMENTS)}
    defaults: ClassVar[tuple[Values, ...]] = (_VALUES | {"momentum": 0.95}, _VALUES | {"momentum": 0.9})
    rule: ClassVar[str] = "muown"

    def _adjusted(self) -> sympy.Expr:
        return adjustment(self.text("adjust_lr"))

    def matrices(self) -> tuple[Stage, ...]:
        """The gradient of directions, Muon's moment and norm, and the step of both."""
        return (AcrossRows(), self.moment(), Lmo(self.steps()), RowStep(self.number("length_momentum")))


recipes.add("muown", Muown(), __name__)
