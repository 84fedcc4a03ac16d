"""Newton-Schulz in the form that does the least work for a shape and device."""

from __future__ import annotations

import torch
from torch import Tensor

from normc.update.kernels.cost import form
from normc.update.kernels.polar import RESTART_AFTER, WORKSPACE, polar_gram, polar_standard
from normc.update.kernels.small import Polynomials, small

# Bytes of intermediate stacks on a CPU: what stays in its caches, and in memory that was in use before.
CPU_WORKSPACE = 2**24


def newton_schulz(
    x: Tensor,
    polynomials: Polynomials,
    dtype: torch.dtype | None = None,
    unit: bool = False,
    without: tuple[str, ...] = (),
) -> Tensor:
    """The matrices [batch, rows, columns] with every singular value pushed to about one. Shape of x.

    One odd polynomial a s + b s^3 + c s^5 of the singular values a step, starting from Frobenius norm one, in `dtype`
    (default: that of x). Zero stays zero. Comes out rounded to `dtype`, as a tensor of the dtype of x, or of `dtype`
    where both have 16 bits.
    `unit` says that each x is in `dtype` and of its `starting_norm`, or zero, and that its memory may be that of the
    result. `without` are rewrites to leave out: "small", "gram", "symmetric", "hopper", "fold".
    """
    dtype = dtype or x.dtype
    result = dtype if x.dtype.itemsize == dtype.itemsize else x.dtype
    n, m = sorted(x.shape[-2:])
    kind = form(n, m, dtype, x.device, steps=len(polynomials), without=without)
    if kind == "small":
        over = unit and dtype == x.dtype
        return small(x, polynomials, dtype=dtype, out=x if over else torch.empty_like(x, dtype=dtype)).to(result)
    space = CPU_WORKSPACE if x.device.type == "cpu" else WORKSPACE
    if kind == "gram":
        # Wider dtypes are most exact where both segments are of one length; 16 bits need an early restart.
        after = RESTART_AFTER if dtype.itemsize <= 2 else (len(polynomials) + 1) // 2
        return polar_gram(
            x, polynomials, restart_after=after, dtype=dtype, result=result, workspace=space, unit=unit, without=without
        )
    return polar_standard(x, polynomials, dtype=dtype, result=result, workspace=space, unit=unit, without=without)
