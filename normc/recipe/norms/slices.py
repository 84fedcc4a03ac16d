"""The largest spectral norm of a convolution's slices, one slice a place of its window (Modula, 2410.21265, ex. 7)."""

from __future__ import annotations

import sympy

from normc.plans.geometry import Norm, norms
from normc.plans.row import D_IN, D_OUT, KERNEL
from normc.recipe.norms.spectral import dual, measure, spectral

norms.add(
    "slices",
    Norm(
        name="slices",
        operator="RMS to RMS",
        shape="slices",
        lmo=spectral,
        measure=measure,
        dual=dual,
        # k slices add up in one output: each may have a k-th of the size.
        scale=sympy.sqrt(D_OUT / D_IN) / KERNEL,
    ),
    __name__,
)
