"""Scion: each role's operator norm, with one momentum buffer (Pethick et al., arXiv 2502.07529)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import sympy

from normc.errors import NormcError
from normc.plans.geometry import Geometry, norms
from normc.plans.row import D_IN, D_OUT, KERNEL, Role, Row
from normc.recipe.by_name import recipes
from normc.recipe.recipe import Option, Recipe, Values
from normc.recipe.stages.apply import Cap, Cautious, Descend, Shrink, decay_named
from normc.recipe.stages.build import Stage
from normc.recipe.stages.moments import Ema
from normc.recipe.stages.norm import Lmo

# The norm of each role, the option that holds its radius, and why.
_ROLES: dict[Role, tuple[str, str, str]] = {
    "input": (
        "spectral",
        "radius_input",
        "dense input: RMS to RMS, at least 1 where the input is wider than the output",
    ),
    "hidden": ("spectral", "radius_hidden", "activations in, activations out: RMS to RMS"),
    "output": ("sign", "radius_output", "each logit by itself: RMS to max"),
    "embedding": ("colnorm", "radius_embedding", "one-hot input: 1 to RMS"),
    "position": ("colnorm", "radius_position", "one place at a time: 1 to RMS"),
    "token": ("rms", "radius_vector", "one vector, added to activations: RMS"),
    "gain": ("rms", "radius_vector", "one vector, multiplied into activations: RMS"),
    "bias": ("rms", "radius_vector", "one vector, added to activations: RMS"),
    "router": ("rownorm", "radius_router", "each expert's score by itself: RMS to max"),
    "depthwise": ("rownorm", "radius_depthwise", "each channel's filter by itself: RMS to max"),
    "state": ("sign", "radius_state", "no matrix: each entry by itself"),
    "scalar": ("sign", "radius_state", "no matrix: each entry by itself"),
    "unused": ("sign", "radius_state", "no gradient reaches it"),
}


class Scion(Recipe):
    """x <- (1 - lr) x - lr radius lmo(m): the weights stay inside each norm's ball."""

    name: ClassVar[str] = "scion"
    summary: ClassVar[str] = "every role's operator norm, weights kept inside its ball"
    source: ClassVar[str] = "arXiv 2502.07529, algorithm 2 and tables 2 to 4"
    formula: ClassVar[str] = "m = momentum m + (1 - momentum) g;  w = (1 - lr) w - lr scale lmo(m)"
    # Hidden and output radii are those of the paper's small GPT; position and vector ones were tuned (docs/demo.md).
    known: ClassVar[Mapping[str, Option]] = {
        "radius_input": 1.0,
        "radius_hidden": 3.0,
        "radius_output": 10.0,
        "radius_embedding": 1.0,
        "radius_position": 0.1,
        "radius_vector": 0.3,
        "radius_depthwise": 1.0,
        "radius_router": 1.0,
        "radius_state": 1.0,
        "polynomial": "polar-express",
        "ns_steps": 5,
    }
    defaults: ClassVar[tuple[Values, ...]] = ({"momentum": 0.9}, {"momentum": 0.9})

    def geometry(self, row: Row) -> Geometry:
        """By role alone: the paper's table of norms, a radius per role."""
        norm, radius, reason = _ROLES[row.role]
        target = self.number(radius)
        if row.role == "unused":
            return Geometry(norm, "none", 0.0, sympy.Integer(0), reason)
        if row.fallback is not None:
            share = 1 / (D_IN * KERNEL) if row.fan_in > 0 else sympy.Integer(1)
            return Geometry("sign", "lmo", target, target * share, f"fallback, bounded by the fan-in: {row.fallback}")
        if row.role == "output" and any(use.role in ("embedding", "position") for use in row.uses):
            reason = "embedding and output at once: the norm that serves both, RMS to max"
        return Geometry(norm, "lmo", target, target * self._factor(row, norm), reason)

    def sphere(self, row: Row) -> sympy.Expr:
        """The ball's boundary, of the row's own radius."""
        return self.number(_ROLES[row.role][1]) * self._factor(row, row.norm)

    @staticmethod
    def _factor(row: Row, norm: str) -> sympy.Expr:
        if row.role == "input":
            return sympy.Max(1, sympy.sqrt(D_OUT / (D_IN * KERNEL)))
        if row.role in ("state", "scalar"):
            return sympy.Integer(1)
        return norms[norm].scale

    def stages(self, rule: str) -> tuple[Stage, ...]:
        """One chain, "lmo"."""
        return () if rule == "none" else (Ema(), self._lmo(rule), Shrink(), Descend())

    def _lmo(self, rule: str) -> Lmo:
        if rule != "lmo":
            raise NormcError(f"the recipe {self.name} has no rule {rule!r}", "known: lmo, none")
        return Lmo(self.steps())


class UnconstrainedScion(Scion):
    """w <- w - lr radius lmo(m), with weight decay if asked for.

    decay      decoupled, independent (of lr), or cautious: only where the step makes weights smaller too.
    cautious   no step where it isn't down the present gradient.
    cap        after each step, put the weights back into their norm's ball of `cap` radii; 0 doesn't.
    """

    name: ClassVar[str] = "uscion"
    summary: ClassVar[str] = "every role's operator norm, weights free"
    source: ClassVar[str] = "arXiv 2502.07529, algorithm 1"
    formula: ClassVar[str] = "m = momentum m + (1 - momentum) g;  w = (1 - lr weight_decay) w - lr scale lmo(m)"
    known: ClassVar[Mapping[str, Option]] = {**Scion.known, "decay": "decoupled", "cautious": False, "cap": 0.0}
    defaults: ClassVar[tuple[Values, ...]] = (
        {"momentum": 0.9, "weight_decay": 0.0},
        {"momentum": 0.9, "weight_decay": 0.0},
    )

    def stages(self, rule: str) -> tuple[Stage, ...]:
        """One chain, "lmo"."""
        if rule == "none":
            return ()
        decay = decay_named(self.text("decay"))
        return (Ema(), self._lmo(rule), *self._mask(), decay, Descend(), *self._cap())

    def _mask(self) -> tuple[Stage, ...]:
        return (Cautious(),) if self.option("cautious") else ()

    def _cap(self) -> tuple[Stage, ...]:
        return (Cap(self.number("cap")),) if self.option("cap") else ()


recipes.add("scion", Scion(), __name__)
recipes.add("uscion", UnconstrainedScion(), __name__)
