"""The largest 2-norm of a row: every output by itself (Scion, table 3)."""

from __future__ import annotations

import sympy
from torch import Tensor

from normc.plans.geometry import Norm, norms
from normc.plans.row import D_IN, KERNEL
from normc.update.ops.matrices import greatest, length, unit


def rownorm(d: Tensor) -> Tensor:
    """Every row of each matrix [..., out, in] over its 2-norm. Shape and dtype of d."""
    return unit(d, (-1,))


def measure(x: Tensor) -> Tensor:
    """The largest row of each matrix."""
    return greatest(length(x, (-1,)))


def dual(x: Tensor) -> Tensor:
    """The rows' 2-norms added up."""
    return length(x, (-1,)).sum(-1)


norms.add(
    "rownorm",
    Norm(
        name="rownorm",
        operator="RMS to max",
        shape="rows",
        lmo=rownorm,
        measure=measure,
        dual=dual,
        scale=1 / sympy.sqrt(D_IN * KERNEL),
    ),
    __name__,
)
