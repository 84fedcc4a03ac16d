"""The largest absolute entry; over the fan-in it bounds a step from RMS to the largest output (Scion, table 3)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from normc.plans.geometry import Norm, norms
from normc.plans.row import D_IN, KERNEL
from normc.update.ops.matrices import greatest


def sign(d: Tensor) -> Tensor:
    """The sign of every entry; zero for zero, NaN for what isn't finite. Shape and dtype of d.

    torch's sign of NaN is zero: one NaN in an average would stop its entry for good, and nothing would show it.
    """
    return d.sign() + d * 0.0


def sign_each(d: list[Tensor]) -> list[Tensor]:
    """The signs, as new tensors."""
    signs = torch._foreach_sign(d)
    torch._foreach_add_(signs, d, alpha=0.0)
    return list(signs)


def measure(x: Tensor) -> Tensor:
    """The largest absolute entry of each stacked tensor [N, ...]."""
    return greatest(x.abs().reshape(x.shape[0], math.prod(x.shape[1:])))


def dual(x: Tensor) -> Tensor:
    """The absolute entries of each stacked tensor, added up."""
    return (
        x.abs().reshape(x.shape[0], math.prod(x.shape[1:])).sum(-1, dtype=torch.promote_types(x.dtype, torch.float32))
    )


norms.add(
    "sign",
    Norm(
        name="sign",
        operator="RMS to max",
        shape="entries",
        lmo=sign,
        measure=measure,
        dual=dual,
        scale=1 / (D_IN * KERNEL),
    ),
    __name__,
)
