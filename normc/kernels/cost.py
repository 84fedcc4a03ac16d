"""Which form of Newton-Schulz does the least work for a shape: floating-point operations, by what runs on a device."""

from __future__ import annotations

from typing import Literal

import torch

from normc.kernels.language import runs_kernels
from normc.kernels.small import LARGEST
from normc.kernels.tiles import SYMMETRIC_FROM

Form = Literal["standard", "gram", "small"]


def work(n: int, m: int, form: Form, steps: int = 5, segments: int = 2, symmetric: bool = True) -> float:
    """Operations (a multiply-add is two) of one matrix with short side n and long side m, for quintic steps.

    Standard: a Gram product, a square and the product with X a step. Gram: all but the first product and the last of
    each segment is n x n; four a step, less what the first and the last step of a segment needn't do.
    """
    ratio = m / max(n, 1)
    share = 0.5 if symmetric else 1.0  # of a product whose result is known to be symmetric
    cube = 2.0 * float(n) ** 3
    if form == "gram":
        segments = min(segments, steps)
        chain = 4 * steps - 3 * segments
        return cube * (share * (segments * ratio + chain) + segments * ratio)
    return cube * steps * (share * (ratio + 1) + ratio)


def form(n: int, m: int, dtype: torch.dtype, device: torch.device, steps: int = 5, segments: int = 2) -> Form:
    """The form for matrices with short side n and long side m, computed in `dtype` on a device.

    "small" where a matrix fits a program of a kernel; "gram" where it does less work: never in bf16, of whose eight
    bits a Gram matrix leaves four.
    """
    if n <= LARGEST and dtype != torch.float64 and runs_kernels(device):
        return "small"
    if dtype == torch.bfloat16:
        return "standard"
    halves = n >= SYMMETRIC_FROM.get(device.type, n + 1) and symmetric_products(dtype, device)
    least = {kind: work(n, m, kind, steps, segments, halves) for kind in ("standard", "gram")}  # type: ignore[arg-type]
    return "gram" if least["gram"] < least["standard"] else "standard"


def symmetric_products(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether products that are known to be symmetric take about half the work in this dtype on this device."""
    if device.type == "cpu":
        return dtype in (torch.float32, torch.float64)
    return dtype in (torch.float16, torch.bfloat16) and runs_kernels(device)
