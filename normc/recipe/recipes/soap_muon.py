"""SOAP-Muon: Newton-Schulz of SOAP's direction, off or on a sphere; AdamW for the rest (Vyas, SOAP_Muon.pdf, 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import sympy

from normc.recipe.by_name import recipes
from normc.recipe.recipe import Option, Values
from normc.recipe.recipes.muon import ADJUSTMENTS, Muon, adjustment
from normc.recipe.recipes.soap import BASES, bases
from normc.recipe.stages.apply import Descend, Sphere, decay_named
from normc.recipe.stages.build import Stage
from normc.recipe.stages.kronecker import Rotate
from normc.recipe.stages.norm import Lmo

_VALUES = {"weight_decay": 0.01, "beta2": 0.95, "eps": 1e-8}


class SoapMuon(Muon):
    """Every input and hidden matrix, each block apart: Adam in its eigenbases, back, and orthogonalised.

    radius     none, or sphere: matrices keep their norm as hyperball's do, with lr a share of it and no weight decay.
    adjust_lr  as Muon's; of no effect on the sphere.
    As SOAP's, the first step makes the bases and is none but for weight decay. The author's second form also takes
    roots of the entries of the orthogonalised step in the eigenbases; this is the step without them.
    """

    name: ClassVar[str] = "soap-muon"
    summary: ClassVar[str] = "SOAP's direction orthogonalised, on a sphere or not; AdamW for the rest"
    source: ClassVar[str] = "Vyas, Improving SOAP using Iterative Whitening and Muon, and its code"
    formula: ClassVar[str] = (
        "d = SOAP's direction (soap);  w = (1 - lr weight_decay) w - lr scale polar(d), or on the sphere "
        "w = R unit(w - lr R unit(polar(d))), R = ||w_0||;  AdamW for the rest"
    )
    known: ClassVar[Mapping[str, Option]] = {
        "radius": "none",
        "adjust_lr": "original",
        **BASES,
        "polynomial": "keller",
        "ns_steps": 5,
        "adamw_lr_ratio": 1.0,
        "decay": "decoupled",
    }
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "radius": ("none", "sphere"),
        "adjust_lr": tuple(ADJUSTMENTS),
    }
    defaults: ClassVar[tuple[Values, ...]] = (_VALUES | {"momentum": 0.95}, _VALUES | {"momentum": 0.9})
    rule: ClassVar[str] = "soap-muon"

    def _adjusted(self) -> sympy.Expr:
        return sympy.Integer(1) if self._on_sphere() else adjustment(self.text("adjust_lr"))

    def _on_sphere(self) -> bool:
        return self.text("radius") == "sphere"

    def matrices(self) -> tuple[Stage, ...]:
        """SOAP's direction without its size, Muon's norm, and a step off or on the sphere."""
        applied = (Sphere(),) if self._on_sphere() else (decay_named(self.text("decay")), Descend())
        return (Rotate(correct=False, **bases(self)), Lmo(self.steps()), *applied)


recipes.add("soap-muon", SoapMuon(), __name__)
