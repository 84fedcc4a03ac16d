"""AdamW for a model wider and deeper than the one that was tuned: muP (arXiv 2203.03466), CompleteP (2505.01618) and
u-muP (2407.17465). The model itself has to be initialised, and its layers multiplied, as each of them says.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar

import sympy

from normc.errors import NormcError
from normc.plans.geometry import Geometry
from normc.plans.row import D_IN, D_OUT, KERNEL, Role, Row
from normc.recipe.by_name import recipes
from normc.recipe.exponents.depths import Part, Rules, completep, u_mup
from normc.recipe.recipe import Option, Recipe, Values
from normc.recipe.stages.apply import Descend
from normc.recipe.stages.build import Stage
from normc.recipe.stages.own import OwnDecay
from normc.recipe.stages.precondition import Plus, Precondition, UnbiasedEma
from normc.recipe.stages.size import Radius

_PARTS: Mapping[Role, Part] = {
    "embedding": "embedding", "position": "embedding", "input": "embedding", "token": "embedding",
    "hidden": "hidden", "router": "hidden", "output": "readout", "bias": "bias",
    "gain": "gain", "depthwise": "gain", "state": "gain", "scalar": "gain",
}  # fmt: skip
_VALUES: Values = {"momentum": 0.9, "weight_decay": 0.0, "beta2": 0.95, "eps": 1e-8}


@dataclass(frozen=True)
class MupAdam(Recipe):
    """muP: the lr of a matrix between activations falls as the model is wider than base_width; other rates stay.

    The model's width is its embedding's; each matrix's own fan-in then is as many times that of the model that was
    tuned. Without an embedding, and without a dense input, a fan-in itself is held against base_width. Decay per step
    is the same for all. In blocks eps falls like gradients: that of a vector by its own length.
    """

    name: ClassVar[str] = "mup-adam"
    summary: ClassVar[str] = "AdamW whose lr follows the width: muP"
    source: ClassVar[str] = "arXiv 2203.03466; for eps, 2505.01618"
    formula: ClassVar[str] = "AdamW; hidden matrices by lr base_width / width"
    assumes: ClassVar[str] = (
        "hidden weights start with deviation 1 / sqrt(fan-in) and attention is by 1 / d_head; outputs are multiplied "
        "by base_width / width"
    )
    known: ClassVar[Mapping[str, Option]] = {"base_width": 256.0}
    defaults: ClassVar[tuple[Values, ...]] = (_VALUES, _VALUES)

    width: int | None = None

    def configure(self, **options: Option) -> Recipe:
        """As any recipe. NormcError for the size of no model."""
        made = super().configure(**options)
        for name in ("base_width", "base_depth", "depth"):
            size = made.number(name) if name in made.known else 1.0
            if size < 0 or (size == 0 and name != "depth"):
                raise NormcError(f"option {name} of the recipe {self.name} is {size:g}", "give a positive number")
        return made

    def seeing(self, rows: Iterable[Row], blocks: int = 0) -> Recipe:
        """With the model's width, where its tables, or else its dense inputs, have one that they agree on."""
        rows, made = list(rows), _deepened(self, blocks)
        for roles in (("embedding", "position"), ("input",)):
            found = {row.fan_out for row in rows if row.role in roles and row.fallback is None}
            if found:
                return replace(made, width=found.pop() if len(found) == 1 else None)
        return made

    def geometry(self, row: Row) -> Geometry:
        """By role. The model's place in a row's formula is its own fan-in."""
        if row.role == "unused":
            return Geometry("sign", "none", 0.0, sympy.Integer(0), "no gradient reaches it")
        formula, reason = self.rate(row, _PARTS[row.role])
        reason = reason if row.fallback is None else f"{reason}; fallback: {row.fallback}"
        return Geometry("sign", self.name, 1.0, formula, reason)

    def rate(self, row: Row, part: Part) -> tuple[sympy.Expr, str]:
        """What lr is multiplied by, and why."""
        deep = self.rules(part, 1.0).lr
        if part != "hidden" or row.fan_in < 1:
            return _exact(deep), f"{row.role}: its lr doesn't follow the width{self._place(part)}"
        base = Fraction(self.number("base_width"))
        own, why = base, f"fan-in against {float(base):g}: no one width of the model is known"
        if self.width is not None:
            own = base * _fan_in(row) / self.width
            why = f"the model is {self.width} wide, tuned at {float(base):g}"
        return _exact(deep) * sympy.Rational(own.numerator, own.denominator) / D_IN, f"hidden: {why}"

    def rules(self, part: Part, width: float) -> Rules:
        """The recipe's rules for a model so many times wider than the one that was tuned."""
        return completep(part, width, 1.0)

    def own_rules(self, row: Row) -> Rules:
        """A row's rules, its width told by its scale or by its length."""
        part = _PARTS[row.role]
        if part == "hidden":
            return self.rules(part, self.rules(part, 1.0).lr / row.scale.value if row.scale.value > 0 else 1.0)
        length = math.prod(row.shape[axis] for axis in row.block_axes) if row.role == "depthwise" else row.fan_out
        known = part in ("gain", "bias") and row.role not in ("state", "scalar") and length > 0
        return self.rules(part, length / self.number("base_width") if known else 1.0)

    def _place(self, part: Part) -> str:
        return ""

    def stages_of(self, row: Row) -> tuple[Stage, ...]:
        """AdamW with the row's own eps and decay."""
        rules = self.own_rules(row)
        return self._chain(row.rule, rules.epsilon, rules.lr * rules.weight_decay)

    def stages(self, rule: str) -> tuple[Stage, ...]:
        """One chain, called as the recipe is."""
        return self._chain(rule, 1.0, 1.0)

    def _chain(self, rule: str, eps: float, decay: float) -> tuple[Stage, ...]:
        if rule == "none":
            return ()
        if rule != self.name:
            raise NormcError(f"the recipe {self.name} has no rule {rule!r}", f"known: {self.name}, none")
        decay = 1.0 if math.isclose(decay, 1.0, rel_tol=1e-12) else decay
        return (UnbiasedEma(), Precondition(by=Plus(eps)), Radius(), OwnDecay(decay), Descend())


@dataclass(frozen=True)
class CompleteP(MupAdam):
    """muP, and rules for a model that is depth / base_depth times deeper than the one that was tuned.

    depth        how many blocks the model has; 0 is for as many as are found in it. Where none are, it is taken to be
                 as deep as the one that was tuned.
    base_depth   how many that one had.
    alpha        residual branches are multiplied by (depth / base_depth)^-alpha: 1 for CompleteP, 1/2 for depth-muP.
    Vectors are taken to be in blocks. The last norm isn't: its eps, and unless alpha is 1 its lr, are smaller than the
    paper's by the factor of those in blocks.
    """

    name: ClassVar[str] = "completep"
    summary: ClassVar[str] = "AdamW whose lr follows width and depth: CompleteP"
    source: ClassVar[str] = "arXiv 2505.01618, table 1"
    formula: ClassVar[str] = (
        "AdamW; in blocks by lr (depth / base_depth)^(alpha - 1), hidden matrices also by base_width / width"
    )
    assumes: ClassVar[str] = (
        "hidden weights start with deviation 1 / sqrt(fan-in); branches are multiplied by (depth / base_depth)^-alpha "
        "and outputs by base_width / width"
    )
    known: ClassVar[Mapping[str, Option]] = {"base_width": 256.0, "depth": 0.0, "base_depth": 2.0, "alpha": 1.0}

    def rules(self, part: Part, width: float) -> Rules:
        """Table 1."""
        base = self.number("base_depth")
        return completep(part, width, (self.number("depth") or base) / base, self.number("alpha"))

    def _place(self, part: Part) -> str:
        base, deep = self.number("base_depth"), "no blocks were found, so of a model as deep as the one that was tuned"
        if self.number("depth"):
            deep = f"of a model of {self.number('depth'):g} blocks, tuned at {base:g}"
        return f"; taken to be in a block, {deep}" if part in ("gain", "bias") else ""


@dataclass(frozen=True)
class UMup(MupAdam):
    """u-muP: weights start with deviation 1, and the lr of a matrix is 1 / sqrt(fan-in) by itself, whatever was tuned.

    depth   how many layers the model's stack has; 0 is for as many blocks as are found in the model. What is in the
            stack has lr over the root of that. Vectors and hidden matrices are taken to be in it, tables and the output
            not to be.
    Decay per step is the same for all: independent of lr, as the paper has it, but for the lr of the group.
    """

    name: ClassVar[str] = "u-mup"
    summary: ClassVar[str] = "AdamW of unit-scaled weights, whose lr follows fan-in and depth: u-muP"
    source: ClassVar[str] = "arXiv 2407.17465, table 2"
    formula: ClassVar[str] = (
        "AdamW; tables by lr / sqrt(fan-out), in the stack by lr / sqrt(depth), hidden matrices also by "
        "1 / sqrt(fan-in)"
    )
    assumes: ClassVar[str] = "weights start with deviation 1 and layers are multiplied as in u-muP"
    known: ClassVar[Mapping[str, Option]] = {"depth": 0.0}

    def seeing(self, rows: Iterable[Row], blocks: int = 0) -> Recipe:
        """The number of layers; the rest is said by each row's own sizes."""
        return _deepened(self, blocks)

    def rate(self, row: Row, part: Part) -> tuple[sympy.Expr, str]:
        """By fan-in, and by depth in the stack."""
        deep, layers = self.rules(part, 1.0).lr, self.number("depth")
        where = f"in the stack of {layers:g} layers, as it is taken to be" if layers else "no layers were found"
        if part == "hidden" and row.fan_in > 0:
            return _exact(deep) / sympy.sqrt(D_IN * KERNEL), f"hidden: 1 / sqrt(fan-in), {where}"
        if part == "embedding":
            return 1 / sympy.sqrt(D_OUT), f"{row.role}: 1 / sqrt(fan-out), the length of its vectors"
        return _exact(deep), f"{row.role}{'' if part == 'readout' else f': {where}'}"

    def rules(self, part: Part, width: float) -> Rules:
        """Table 2, for a fan-in of `width`."""
        return u_mup(part, width, (self.number("depth") or 1.0) if part in ("hidden", "gain", "bias") else None)

    def own_rules(self, row: Row) -> Rules:
        """No row has an eps or a decay of its own."""
        return Rules()


def _deepened(recipe: MupAdam, blocks: int) -> MupAdam:
    """With the model's number of blocks as its depth, if it has such an option that wasn't given."""
    if recipe.known.get("depth") is None or recipe.number("depth") or not blocks:
        return recipe
    return replace(recipe, options={**recipe.options, "depth": float(blocks)})


def _fan_in(row: Row) -> Fraction:
    return Fraction(row.block_fans[0][1], row.kernel)


def _exact(value: float) -> sympy.Expr:
    """A number, whole if it is."""
    return sympy.Integer(round(value)) if float(value).is_integer() else sympy.Float(value)


for recipe in (MupAdam(), CompleteP(), UMup()):
    recipes.add(recipe.name, recipe, __name__)
