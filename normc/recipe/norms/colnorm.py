"""The largest 2-norm of a column: for weights that a one-hot vector selects columns of (Scion, table 2)."""

from __future__ import annotations

import sympy
from torch import Tensor

from normc.plans.geometry import Norm, norms
from normc.plans.row import D_OUT
from normc.update.ops.matrices import greatest, length, unit


def colnorm(d: Tensor) -> Tensor:
    """Every column of each matrix [..., out, in] over its 2-norm. Shape and dtype of d."""
    return unit(d, (-2,))


def measure(x: Tensor) -> Tensor:
    """The largest column of each matrix."""
    return greatest(length(x, (-2,)))


def dual(x: Tensor) -> Tensor:
    """The columns' 2-norms added up."""
    return length(x, (-2,)).sum(-1)


norms.add(
    "colnorm",
    Norm(
        name="colnorm",
        operator="1 to RMS",
        shape="columns",
        lmo=colnorm,
        measure=measure,
        dual=dual,
        scale=sympy.sqrt(D_OUT),
    ),
    __name__,
)
