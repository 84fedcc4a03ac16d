"""Muon for matrices, AdamW for the rest, in the dialects that are in use. The rest is told by role."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import ClassVar, NamedTuple

import sympy

from normc.errors import NormcError
from normc.plans.geometry import Geometry
from normc.plans.row import D_IN, D_OUT, KERNEL, Row
from normc.recipe.by_name import recipes
from normc.recipe.recipe import Option, Recipe, Values
from normc.recipe.stages.apply import Cautious, Descend, QkClip, decay_named
from normc.recipe.stages.build import Stage
from normc.recipe.stages.moments import Ema, Moment, Nesterov
from normc.recipe.stages.norm import Lmo
from normc.recipe.stages.precondition import AdamDirection
from normc.recipe.stages.size import Radius


class Dialect(NamedTuple):
    """Who adjusts lr how, and the values of matrices and of the rest that they start from."""

    adjust: str
    matrices: Values
    rest: Values


# In the second group `momentum` is AdamW's first beta, so that a scheduler of momentum moves both groups.
_TORCH = {"momentum": 0.95, "weight_decay": 0.1, "beta2": 0.999, "eps": 1e-8}
DIALECTS: Mapping[str, Dialect] = {
    "torch": Dialect("original", _TORCH, _TORCH | {"momentum": 0.9, "weight_decay": 0.01}),
    "keller": Dialect(
        "original",
        {"momentum": 0.95, "weight_decay": 0.0, "beta2": 0.95, "eps": 1e-10},
        {"momentum": 0.9, "weight_decay": 0.0, "beta2": 0.95, "eps": 1e-10},
    ),
    "moonlight": Dialect(
        "match_rms_adamw",
        {"momentum": 0.95, "weight_decay": 0.1, "beta2": 0.95, "eps": 1e-8},
        {"momentum": 0.9, "weight_decay": 0.1, "beta2": 0.95, "eps": 1e-8},
    ),
    "spectral": Dialect("spectral", _TORCH, _TORCH | {"momentum": 0.9, "weight_decay": 0.01}),
}

_FAN_IN = D_IN * KERNEL
# The factor of lr that `adjust_lr` names, of a matrix's sides.
ADJUSTMENTS: Mapping[str, Callable[[], sympy.Expr]] = {
    "original": lambda: sympy.sqrt(sympy.Max(1, D_OUT / _FAN_IN)),
    "match_rms_adamw": lambda: sympy.Rational(1, 5) * sympy.sqrt(sympy.Max(D_OUT, _FAN_IN)),
    "spectral": lambda: sympy.sqrt(D_OUT / _FAN_IN),
}


class Muon(Recipe):
    """Orthogonalised momentum on every input and hidden matrix, in each block apart; AdamW on everything else.

    dialect    torch (torch.optim.Muon and AdamW), keller (Keller Jordan's), moonlight, or spectral (steps of equal norm
               from RMS to RMS): how lr is adjusted, and what the groups' values start from. Where Moonlight sums
               gradients this averages them, which is the same to an LMO.
    adjust_lr  as the dialect has it; or original sqrt(max(1, o/i)), match_rms_adamw .2 sqrt(max(o, i)), spectral
               sqrt(o/i).
    qk_clip    the largest attention logit that is let be, as 100; 0 lets all be. Needs heads as blocks, and the
               optimizer's observe_logits.
    """

    name: ClassVar[str] = "muon"
    summary: ClassVar[str] = "orthogonalised momentum for matrices, AdamW for the rest"
    source: ClassVar[str] = "torch.optim.Muon and torch.optim.AdamW; arXiv 2502.16982"
    formula: ClassVar[str] = (
        "m = momentum m + (1 - momentum) g;  w = (1 - lr weight_decay) w - lr scale polar(nesterov(g, m));  "
        "AdamW for the rest"
    )
    known: ClassVar[Mapping[str, Option]] = {
        "dialect": "torch",
        "adjust_lr": "auto",
        "nesterov": True,
        "polynomial": "keller",
        "ns_steps": 5,
        "adamw_lr_ratio": 1.0,
        "decay": "decoupled",
        "cautious": False,
        "qk_clip": 0.0,
    }
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "dialect": tuple(DIALECTS),
        "adjust_lr": ("auto", *ADJUSTMENTS),
    }
    defaults: ClassVar[tuple[Values, ...]] = (DIALECTS["torch"].matrices, DIALECTS["torch"].rest)
    rule: ClassVar[str] = "lmo"
    lr: ClassVar[float | None] = 1e-3  # torch's

    def own_lr(self) -> float | None:
        """Torch's, in torch's dialect."""
        return self.lr if self.lr is not None and self.text("dialect") == "torch" else None

    def configure(self, **options: Option) -> Recipe:
        """As any recipe; the groups' values are the dialect's."""
        made = super().configure(**options)
        if "dialect" in made.known:
            found = DIALECTS[made.text("dialect")]
            object.__setattr__(made, "defaults", (found.matrices, found.rest))
        return made

    def geometry(self, row: Row) -> Geometry:
        """Input and hidden rows get the spectral norm's step with the adjusted lr; others AdamW."""
        if row.role == "unused":
            return Geometry("sign", "none", 0.0, sympy.Integer(0), "no gradient reaches it")
        if row.role in ("input", "hidden") and row.fallback is None:
            return Geometry("spectral", self.rule, 1.0, self._adjusted(), "a matrix between activations")
        ratio = self.number("adamw_lr_ratio")
        reason = f"{row.role}: no matrix between activations" if row.fallback is None else f"fallback: {row.fallback}"
        return Geometry("sign", "adamw", ratio, sympy.Float(ratio) if ratio != 1.0 else sympy.Integer(1), reason)

    def _adjusted(self) -> sympy.Expr:
        adjust = self.text("adjust_lr")
        return adjustment(DIALECTS[self.text("dialect")].adjust if adjust == "auto" else adjust)

    def stages(self, rule: str) -> tuple[Stage, ...]:
        """Two chains, one for matrices, and "adamw"."""
        if rule == "none":
            return ()
        if rule == self.rule:
            return self.matrices()
        if rule == "adamw":
            return (AdamDirection(), Radius(), decay_named(self.text("decay"), scaled=True), Descend())
        raise NormcError(f"the recipe {self.name} has no rule {rule!r}", f"known: {self.rule}, adamw, none")

    def matrices(self) -> tuple[Stage, ...]:
        """What input and hidden rows get."""
        mask = (Cautious(),) if self.option("cautious") else ()
        clip = (QkClip(self.number("qk_clip")),) if self.option("qk_clip") else ()
        return (self.moment(), Lmo(self.steps()), *mask, decay_named(self.text("decay")), Descend(), *clip)

    def moment(self) -> Moment:
        """The average, looked at one step ahead if `nesterov`."""
        return Nesterov() if self.option("nesterov") else Ema()


@functools.cache  # sympy takes milliseconds for a maximum
def adjustment(name: str) -> sympy.Expr:
    """Return the factor of lr that `adjust_lr` names."""
    return ADJUSTMENTS[name]()


recipes.add("muon", Muon(), __name__)
