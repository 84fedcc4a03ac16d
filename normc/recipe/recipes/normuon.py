"""NorMuon: Muon's step with its neurons evened out; AdamW for the rest (arXiv 2510.05491)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import sympy

from normc.recipe.by_name import recipes
from normc.recipe.recipe import Option, Values
from normc.recipe.recipes.muon import ADJUSTMENTS, Muon, adjustment
from normc.recipe.stages.apply import Descend, decay_named
from normc.recipe.stages.build import Stage
from normc.recipe.stages.norm import NeuronLmo

_VALUES = {"weight_decay": 0.0, "beta2": 0.95, "eps": 1e-10}


class NorMuon(Muon):
    """Each neuron of the orthogonalised step over the root of its average square; the step's 2-norm stays.

    update_scale   preserve_norm, as the authors' code has it, with adjust_lr; or match_rms, as in the paper: RMS .2.
    A kernel's window counts as fan-in, as in the paper; the authors' code averages over its last axis alone.
    """

    name: ClassVar[str] = "normuon"
    summary: ClassVar[str] = "Muon with its neurons evened out, AdamW for the rest"
    source: ClassVar[str] = "arXiv 2510.05491 and its code"
    formula: ClassVar[str] = (
        "u = polar(nesterov(g, m));  v = beta2 v + (1 - beta2) mean(u^2), neuron by neuron;  "
        "w = (1 - lr weight_decay) w - lr scale (u / sqrt(v)) ||u|| / ||u / sqrt(v)||"
    )
    known: ClassVar[Mapping[str, Option]] = {
        "update_scale": "preserve_norm",
        "adjust_lr": "original",
        "nesterov": True,
        "polynomial": "keller",
        "ns_steps": 5,
        "adamw_lr_ratio": 1.0,
        "decay": "decoupled",
    }
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "update_scale": ("preserve_norm", "match_rms"),
        "adjust_lr": tuple(ADJUSTMENTS),
    }
    defaults: ClassVar[tuple[Values, ...]] = (_VALUES | {"momentum": 0.95}, _VALUES | {"momentum": 0.9})
    rule: ClassVar[str] = "normuon"

    def _adjusted(self) -> sympy.Expr:
        if self.text("update_scale") == "match_rms":
            return sympy.Rational(1, 5)
        return adjustment(self.text("adjust_lr"))

    def matrices(self) -> tuple[Stage, ...]:
        """As Muon's, neuron by neuron."""
        unit = NeuronLmo(self.steps(), rms=self.text("update_scale") == "match_rms")
        return (self.moment(), unit, decay_named(self.text("decay")), Descend())


recipes.add("normuon", NorMuon(), __name__)
