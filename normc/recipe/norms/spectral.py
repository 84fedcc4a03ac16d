"""The spectral norm: the largest singular value. Its unit step is U V^T (Scion, arXiv 2502.07529, table 2)."""

from __future__ import annotations

import sympy
import torch
from torch import Tensor

from normc.plans.geometry import Norm, norms
from normc.plans.row import D_IN, D_OUT, KERNEL
from normc.update.ops.matrices import greatest


def spectral(d: Tensor) -> Tensor:
    """U V^T over the singular values that are not zero, of each matrix [..., out, in]. Shape and dtype of d.

    In float64: the null space, where an SVD's U V^T is arbitrary, is cut off. The fast form is `polar`.
    """
    if d.numel() == 0:
        return d
    wide = d.to(torch.float64)
    peak = wide.abs().amax((-2, -1), keepdim=True)
    u, s, vh = torch.linalg.svd(wide / torch.where(peak > 0, peak, 1.0), full_matrices=False)
    cut = s.amax(-1, keepdim=True) * max(d.shape[-2:]) * 8 * torch.finfo(torch.float64).eps
    result: Tensor = ((u * (s > cut).unsqueeze(-2)) @ vh).to(d.dtype)
    return result


def measure(x: Tensor) -> Tensor:
    """The largest singular value of each matrix."""
    return greatest(_values(x))


def dual(x: Tensor) -> Tensor:
    """The sum of the singular values of each matrix."""
    return _values(x).sum(-1)


def _values(x: Tensor) -> Tensor:
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    result: Tensor = torch.linalg.svdvals(wide)
    return result


norms.add(
    "spectral",
    Norm(
        name="spectral",
        operator="RMS to RMS",
        shape="matrix",
        lmo=spectral,
        measure=measure,
        dual=dual,
        # A convolution is bounded by its k slices' norms added up: hence 1/k, with d_in that of one slice.
        scale=sympy.sqrt(D_OUT / D_IN) / KERNEL,
    ),
    __name__,
)
