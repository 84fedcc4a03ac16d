"""What a norm is, to the plan and to the update side. The norms themselves are files of `normc.recipe.norms`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import sympy
from torch import Tensor

from normc.registry import Registry


@dataclass(frozen=True, slots=True)
class Norm:
    """A norm and its linear minimisation oracle, in plain (unscaled) form, on a stack of matrices [..., out, in].

    `lmo(d)` has `measure` one and <d, lmo(d)> = `dual(d)`; zero gives zero; lmo(c d) = lmo(d) for c > 0.
    `operator` names the operator norm that `measure` becomes when the step is `target * scale * lmo(d)`, and `scale`
    is that geometric factor as an expression in d_out, d_in and k (Scion, 2502.07529, tables 2-4). `shape` says what of
    a row is seen at once: "slices" is a matrix for each place of a convolution's window.
    """

    name: str
    operator: str
    shape: Literal["matrix", "slices", "columns", "rows", "entries", "whole"]
    lmo: Callable[[Tensor], Tensor]
    measure: Callable[[Tensor], Tensor]
    dual: Callable[[Tensor], Tensor]
    scale: sympy.Expr


@dataclass(frozen=True, slots=True)
class Geometry:
    """What a recipe gives a row: a norm by name, its own chain of stages by name, a radius, and the scale's formula.

    `why` says where the radius comes from, if not from the recipe alone.
    """

    norm: str
    rule: str
    target: float
    formula: sympy.Expr
    reason: str
    why: str = ""


# Rules whose step has the size of the row's norm: by its unit step, or by the direction rescaled.
NORMED = ("lmo", "norm")

norms: Registry[Norm] = Registry("norm", "normc.recipe.norms")
