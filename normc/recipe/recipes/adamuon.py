"""AdaMuon: Muon's step of signs, each entry over the root of its average square; AdamW for the rest (2507.11005)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import sympy

from normc.recipe.by_name import recipes
from normc.recipe.recipe import Option, Values
from normc.recipe.recipes.muon import Muon
from normc.recipe.stages.apply import Descend, decay_named
from normc.recipe.stages.build import Stage
from normc.recipe.stages.norm import EntryLmo
from normc.recipe.stages.precondition import Signs

_VALUES = {"weight_decay": 0.01, "beta2": 0.95, "eps": 1e-8}


class AdaMuon(Muon):
    """Newton-Schulz of the momentum's signs, evened out entry by entry; each block's step has RMS 0.2, Adam's.

    signs      whether Newton-Schulz sees the momentum's signs, as in the paper; in the authors' code, the momentum.
    nesterov   false in the paper, true in the authors' code.
    Where the paper sums gradients this averages them: neither a sign nor an LMO sees the difference.
    """

    name: ClassVar[str] = "adamuon"
    summary: ClassVar[str] = "Muon of signs, over the size of each entry; AdamW for the rest"
    source: ClassVar[str] = "arXiv 2507.11005"
    formula: ClassVar[str] = (
        "m = momentum m + (1 - momentum) g;  u = polar(sign(m));  v = beta2 v + (1 - beta2) u^2;  "
        "x = u / (sqrt(v) + eps);  w = (1 - lr weight_decay) w - 0.2 lr x / rms(x);  AdamW for the rest"
    )
    known: ClassVar[Mapping[str, Option]] = {
        "signs": True,
        "nesterov": False,
        "polynomial": "keller",
        "ns_steps": 5,
        "adamw_lr_ratio": 1.0,
        "decay": "decoupled",
    }
    defaults: ClassVar[tuple[Values, ...]] = (_VALUES | {"momentum": 0.95}, _VALUES | {"momentum": 0.9})
    rule: ClassVar[str] = "adamuon"

    def _adjusted(self) -> sympy.Expr:
        return sympy.Rational(1, 5)

    def matrices(self) -> tuple[Stage, ...]:
        """As Muon's, entry by entry."""
        signs = (Signs(),) if self.option("signs") else ()
        return (self.moment(), *signs, EntryLmo(self.steps()), decay_named(self.text("decay")), Descend())


recipes.add("adamuon", AdaMuon(), __name__)
