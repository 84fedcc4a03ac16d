"""Everett et al.: learning rates by powers of each layer's width (Scaling exponents across parameterizations and
optimizers, arXiv 2407.05872).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import ClassVar, NamedTuple

import sympy

from normc.errors import NormcError
from normc.plans.geometry import Geometry
from normc.plans.row import D_IN, D_OUT, Role, Row
from normc.recipe.by_name import recipes
from normc.recipe.exponents.widths import ALIGNMENTS, PARAMETERISATIONS, Exponents, Layer, exponents
from normc.recipe.recipe import Option, Recipe, Values
from normc.recipe.stages.apply import Descend, decay_named
from normc.recipe.stages.build import Stage
from normc.recipe.stages.clip import ClipRms
from normc.recipe.stages.moments import HeavyBall, Penalty
from normc.recipe.stages.precondition import Fading, Floor, Plus, Precondition, UnbiasedEma
from normc.recipe.stages.size import Radius, RelativeToWeights
from normc.recipe.stages.statistics import Factored

# What passing a multiplier n^-a on to the weights adds to the exponent of a rate, in units of a.
_SHIFT = {"sgd": 2, "adam": 1, "adafactor": 0}
# Which kind of layer a role is. Vectors, and what multiplies each channel, are looked up like an embedding's rows.
_LAYERS: Mapping[Role, Layer] = {
    "embedding": "embedding", "position": "embedding", "input": "embedding", "token": "embedding",
    "gain": "embedding", "bias": "embedding", "depthwise": "embedding",
    "hidden": "hidden", "router": "hidden", "output": "readout",
}  # fmt: skip
_VECTORS = ("token", "gain", "bias", "depthwise")


class Powers(NamedTuple):
    """A row's kind of layer, the width n that its rules are in (a formula and its number), and their exponents."""

    layer: Layer
    width: sympy.Expr
    size: int
    rate: Fraction
    gradient: Fraction


class Everett(Recipe):
    """A base optimizer whose lr is gamma (n / base_width)^-c for every layer, c by the paper's linear program.

    parameterisation   standard, ntk, mup or mean-field: what the model's layers are initialised with and multiplied by.
    optimizer          sgd (torch's), adam (with decoupled decay), or adafactor (without the cap of lr).
    alignment          full, or none: how coherent updates and activations are taken to be.
    gamma_embedding, gamma_hidden, gamma_readout   what is tuned at base_width. Vectors go with the embedding.
    multipliers        model: the model's forward has the parameterisation's n^-a. folded: it has none, and weights are
                       initialised as if multiplied by them; exponents are then those of the weights themselves.
    decay              decoupled (by each layer's own lr), independent, or cautious; sgd has it in the gradient.

    n is a layer's own fan-in, without a convolution's window; for tables and dense inputs the fan-out, which is the
    model's width; for a vector its length. Adam's eps is eps (n / base_width)^-g, as gradients are n^-g. Vectors have
    no multiplier. States and single numbers have no width: their lr is as it is.
    """

    name: ClassVar[str] = "everett"
    summary: ClassVar[str] = "sgd, Adam or Adafactor, each layer's lr by a power of its width"
    source: ClassVar[str] = "arXiv 2407.05872"
    formula: ClassVar[str] = (
        "w = w - lr gamma (n / base_width)^-c d, d by the optimizer;  Adam: eps (n / base_width)^-g"
    )
    assumes: ClassVar[str] = (
        "the model is initialised, and its layers multiplied, as the parameterisation says (standard: 1 / sqrt(fan-in))"
    )
    known: ClassVar[Mapping[str, Option]] = {
        "parameterisation": "standard",
        "optimizer": "adam",
        "alignment": "full",
        "base_width": 1024.0,
        "gamma_embedding": 1.0,
        "gamma_hidden": 1.0,
        "gamma_readout": 1.0,
        "multipliers": "model",
        "decay": "decoupled",
    }
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "parameterisation": tuple(PARAMETERISATIONS),
        "optimizer": tuple(_SHIFT),
        "alignment": tuple(ALIGNMENTS),
        "multipliers": ("model", "folded"),
    }
    defaults: ClassVar[tuple[Values, ...]] = (
        {"momentum": 0.9, "weight_decay": 0.0, "beta2": 0.95, "eps": 1e-9},
        {"momentum": 0.9, "weight_decay": 0.0, "beta2": 0.95, "eps": 1e-9},
    )

    def configure(self, **options: Option) -> Recipe:
        """As any recipe. NormcError for a base width below 0, and where no learning rates are the largest."""
        made = super().configure(**options)
        if not made.number("base_width") > 0:
            raise NormcError(f"a base width of {made.number('base_width')} means nothing", "give a positive number")
        exponents(made.text("parameterisation"), made.text("optimizer"), made.text("alignment"))
        return made

    def geometry(self, row: Row) -> Geometry:
        """By role: the kind of layer, its width, its power."""
        if row.role == "unused":
            return Geometry("sign", "none", 0.0, sympy.Integer(0), "no gradient reaches it")
        rule, powers = self.text("optimizer"), self.powers(row)
        if powers is None:
            return Geometry("sign", rule, 1.0, sympy.Integer(1), f"{row.role}: it has no width")
        gamma, base = self.number(f"gamma_{powers.layer}"), sympy.Rational(Fraction(self.number("base_width")))
        power = -sympy.Rational(powers.rate.numerator, powers.rate.denominator)
        formula = (sympy.Integer(1) if gamma == 1.0 else sympy.Float(gamma)) * (powers.width / base) ** power
        tied = row.role == "output" and any(use.role in ("embedding", "position") for use in row.uses)
        kind = "a readout that is an embedding as well" if tied else f"{row.role} is {powers.layer}"
        reason = f"{kind}, of width {powers.size}: lr ~ n^{power}"
        reason = reason if row.fallback is None else f"{reason}; fallback: {row.fallback}"
        return Geometry("sign", rule, gamma, formula, reason)

    def powers(self, row: Row) -> Powers | None:
        """What a row's rules are powers of; None for what has no width."""
        layer = _LAYERS.get(row.role)
        if layer is None or (layer != "embedding" and row.fan_in < 1):
            return None
        found = exponents(self.text("parameterisation"), self.text("optimizer"), self.text("alignment"))
        width, size = _width(row, layer)
        folded = row.role in _VECTORS or self.text("multipliers") == "folded"
        return Powers(layer, width, size, *_exponents(found, layer, self.text("optimizer"), folded))

    def stages_of(self, row: Row) -> tuple[Stage, ...]:
        """The optimizer's, with the row's own eps."""
        powers = self.powers(row)
        ratio = (powers.size / self.number("base_width")) ** -float(powers.gradient) if powers is not None else 1.0
        return self._chain(row.rule, ratio)

    def stages(self, rule: str) -> tuple[Stage, ...]:
        """One chain, called as the optimizer is."""
        return self._chain(rule, 1.0)

    def _chain(self, rule: str, ratio: float) -> tuple[Stage, ...]:
        if rule == "none":
            return ()
        if rule != self.text("optimizer"):
            raise NormcError(f"the recipe {self.name} has no rule {rule!r}", f"known: {self.text('optimizer')}, none")
        if rule == "sgd":
            return (Penalty(), HeavyBall(), Radius(), Descend())
        direction: tuple[Stage, ...] = (UnbiasedEma(), Precondition(by=Plus(ratio)))
        if rule == "adafactor":
            direction = (Precondition(Factored(), Fading(), Floor()), ClipRms(), RelativeToWeights())
        return (*direction, Radius(), decay_named(self.text("decay"), scaled=True), Descend())


def _width(row: Row, layer: Layer) -> tuple[sympy.Expr, int]:
    """n as a formula, and its number."""
    if row.role == "depthwise":
        size = math.prod(row.shape[axis] for axis in row.block_axes)
        return sympy.Integer(size), size
    if layer == "embedding":
        return D_OUT, row.block_fans[0][0]
    return D_IN, max(row.block_fans[0][1] // row.kernel, 1)


def _exponents(found: Exponents, layer: Layer, optimizer: str, folded: bool) -> tuple[Fraction, Fraction]:
    """c and g of a layer; without a multiplier in the forward, those of weights that hold it."""
    rate, gradient, multiplier = (getattr(each, layer) for each in (found.rate, found.gradient, found.multiplier))
    if folded:
        return rate + _SHIFT[optimizer] * multiplier, gradient - multiplier
    return rate, gradient


recipes.add("everett", Everett(), __name__)
