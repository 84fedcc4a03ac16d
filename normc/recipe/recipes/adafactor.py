"""Adafactor: averages of rows and columns in place of those of entries (Shazeer and Stern, arXiv 1804.04235)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from normc.recipe.by_name import recipes
from normc.recipe.recipe import EntryByEntry, Option, Recipe, Values
from normc.recipe.stages.apply import Decay, Descend
from normc.recipe.stages.build import Stage
from normc.recipe.stages.clip import ClipRms
from normc.recipe.stages.precondition import Fading, Floor, Precondition, UnbiasedEma
from normc.recipe.stages.size import LrCap, Radius, RelativeToWeights
from normc.recipe.stages.statistics import Factored, FactoredOrMean

_TORCH: Values = {"weight_decay": 0.0, "momentum": 0.0, "beta2": 0.0, "eps": 0.0}
_VALUES: Mapping[str, Values] = {
    "torch": _TORCH,
    "paper": {"weight_decay": 0.0, "momentum": 0.9, "beta2": 0.95, "eps": 1e-15},
}


class Adafactor(EntryByEntry):
    """Two dialects, as `variant` says.

    torch   equal to torch.optim.Adafactor: no average of gradients, squares forget by t^beta2_decay, steps are clipped
            to an RMS of `clip`, and lr, at most 1 / sqrt(t), is relative to the weights' RMS (at least eps2). eps1 is
            the least root of an average; below 0 it is the precision of the parameter's dtype. Of the groups' values
            it reads weight_decay alone.
    paper   that of arXiv 2407.07972, AdamW with factors: average gradients, biases taken out, eps added, nothing
            clipped or relative. As in its authors' code, all entries of a vector share one average.

    Factors are of each block's matrix, a convolution being one of filters. With `matrices` "stored" they are of a
    tensor's last two axes, whatever the model does with them, and sizes are of whole tensors: then, and for
    models of plain matrices, the dialect "torch" is torch's to rounding.
    """

    name: ClassVar[str] = "adafactor"
    summary: ClassVar[str] = "the gradient over the root of its rows' and columns' average squares"
    source: ClassVar[str] = "torch.optim.Adafactor, arXiv 1804.04235; arXiv 2407.07972"
    formula: ClassVar[str] = (
        "r, c: average squares of rows and columns;  v = r c / mean(r);  u = g / sqrt(v);  "
        "u = u / max(1, rms(u) / clip);  "
        "w = (1 - lr weight_decay) w - min(lr, 1 / sqrt(t)) max(eps2, rms(w)) u"
    )
    known: ClassVar[Mapping[str, Option]] = {
        "variant": "torch",
        "beta2_decay": -0.8,
        "eps1": -1.0,
        "eps2": 1e-3,
        "clip": 1.0,
        "matrices": "blocks",
    }
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"variant": tuple(_VALUES), "matrices": ("blocks", "stored")}
    defaults: ClassVar[tuple[Values, ...]] = (_TORCH, _TORCH)
    lr: ClassVar[float | None] = 1e-2  # torch's

    def own_lr(self) -> float | None:
        """Torch's, of torch's variant."""
        return self.lr if self.text("variant") == "torch" else None

    def configure(self, **options: Option) -> Recipe:
        """As any recipe; the groups' values are the variant's."""
        made = super().configure(**options)
        values = _VALUES[made.text("variant")]
        object.__setattr__(made, "defaults", (values, values))
        return made

    def chain(self) -> tuple[Stage, ...]:
        """Factors, size, decay, step."""
        apart = self.text("matrices") == "blocks"
        if self.text("variant") == "paper":
            return (UnbiasedEma(), Precondition(FactoredOrMean(apart)), Radius(), Decay(), Descend())
        floor = self.number("eps1") if self.number("eps1") >= 0 else None
        factors = Precondition(Factored(apart, floor), Fading(self.number("beta2_decay")), Floor(floor))
        size = (RelativeToWeights(self.number("eps2"), apart), LrCap(), Radius())
        return (factors, ClipRms(self.number("clip"), apart), *size, Decay(), Descend())


recipes.add("adafactor", Adafactor(), __name__)
