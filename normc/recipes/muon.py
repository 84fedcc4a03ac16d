"""Muon for matrices, AdamW for the rest: equal to torch.optim.Muon plus torch.optim.AdamW, split by role."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import sympy

from normc.errors import NormcError
from normc.plans.geometry import Geometry
from normc.plans.row import D_IN, D_OUT, KERNEL, Row
from normc.recipes import Option, Recipe, Values, recipes
from normc.stages.apply import Decay, Descend
from normc.stages.build import Stage
from normc.stages.moments import Ema, Nesterov
from normc.stages.norm import Lmo
from normc.stages.precondition import AdamDirection
from normc.stages.size import Radius
from normc.update.polynomials import polynomials


class Muon(Recipe):
    """Orthogonalised momentum on every input and hidden matrix, in each block apart; AdamW on everything else."""

    name: ClassVar[str] = "muon"
    summary: ClassVar[str] = "orthogonalised momentum for matrices, AdamW for the rest"
    source: ClassVar[str] = "torch.optim.Muon and torch.optim.AdamW; arXiv 2502.16982"
    formula: ClassVar[str] = (
        "m = momentum m + (1 - momentum) g;  w = (1 - lr weight_decay) w - lr scale polar(nesterov(g, m));  "
        "AdamW for the rest"
    )
    known: ClassVar[Mapping[str, Option]] = {
        "adjust_lr": "original",
        "nesterov": True,
        "polynomial": "keller",
        "ns_steps": 5,
        "adamw_lr_ratio": 1.0,
    }
    # In the second group `momentum` is AdamW's first beta, so that a scheduler of momentum moves both groups.
    defaults: ClassVar[tuple[Values, Values]] = (
        {"momentum": 0.95, "weight_decay": 0.1, "beta2": 0.999, "eps": 1e-8},
        {"momentum": 0.9, "weight_decay": 0.01, "beta2": 0.999, "eps": 1e-8},
    )

    def geometry(self, row: Row) -> Geometry:
        """Input and hidden rows get the spectral norm's step with torch's adjusted lr; others AdamW."""
        if row.role == "unused":
            return Geometry("sign", "none", 0.0, sympy.Integer(0), "no gradient reaches it")
        if row.role in ("input", "hidden") and row.fallback is None:
            return Geometry("spectral", "lmo", 1.0, self._adjusted(), "a matrix between activations")
        ratio = self.number("adamw_lr_ratio")
        reason = f"{row.role}: no matrix between activations" if row.fallback is None else f"fallback: {row.fallback}"
        return Geometry("sign", "adamw", ratio, sympy.Float(ratio) if ratio != 1.0 else sympy.Integer(1), reason)

    def _adjusted(self) -> sympy.Expr:
        fan_in, adjust = D_IN * KERNEL, self.text("adjust_lr")
        if adjust == "original":
            return sympy.sqrt(sympy.Max(1, D_OUT / fan_in))
        if adjust == "match_rms_adamw":
            return sympy.Rational(1, 5) * sympy.sqrt(sympy.Max(D_OUT, fan_in))
        raise NormcError(f"adjust_lr can't be {adjust!r}", "known: original, match_rms_adamw")

    def stages(self, rule: str) -> tuple[Stage, ...]:
        """Two chains, "lmo" and "adamw"."""
        if rule == "none":
            return ()
        if rule == "lmo":
            moment = Nesterov() if self.option("nesterov") else Ema()
            return (moment, Lmo(polynomials(self.text("polynomial"), int(self.number("ns_steps")))), Decay(), Descend())
        if rule == "adamw":
            return (AdamDirection(), Radius(), Decay(scaled=True), Descend())
        raise NormcError(f"the recipe {self.name} has no rule {rule!r}", "known: lmo, adamw, none")


recipes.add("muon", Muon(), __name__)
