"""Which form of Newton-Schulz does the least work for a shape: floating-point operations, by what runs on a device."""

from __future__ import annotations

from typing import Literal

import torch

from normc.update.kernels.language import runs_kernels
from normc.update.kernels.products import symmetric_pays
from normc.update.kernels.small import LARGEST as LARGEST
from normc.update.kernels.tiles import symmetric_share

Form = Literal["standard", "gram", "small"]

# From which short side on the Gram form is taken, by type of device: with smaller ones a CPU mostly makes calls.
GRAM_FROM: dict[str, int] = {"cpu": 64}


def work(n: int, m: int, form: Form, steps: int = 5, segments: int = 2, share: float = 0.5) -> float:
    """Operations (a multiply-add is two) of one matrix with short side n and long side m, for quintic steps.

    `share` is what a product known to be symmetric takes of a dense one. Standard: a Gram product, a square and the
    product with X a step. Gram: X X^T and Q X a segment, and n x n products, four a step, less one in the first step of
    a segment and two in its last.
    """
    ratio = m / max(n, 1)
    if form == "gram":
        segments = min(segments, steps)
        products = share * (segments * ratio + 4 * steps - 3 * segments) + segments * ratio
    else:
        products = steps * (share * (ratio + 1) + ratio)
    return 2.0 * float(n) ** 3 * products


def form(
    n: int,
    m: int,
    dtype: torch.dtype,
    device: torch.device,
    steps: int = 5,
    segments: int = 2,
    without: tuple[str, ...] = (),
    kernels: bool | None = None,
) -> Form:
    """The form for matrices with short side n and long side m, computed in `dtype` on a device.

    "small" where a matrix fits a program of a kernel, in float32 up to a side of 32; else "gram" where it does less
    work. Never Gram in bf16, of whose eight bits a Gram matrix leaves four: compute in fp16 instead where the device
    does. None of the forms named in `without`. `kernels` says whether kernels run there; None asks the device.
    """
    fits = n <= (LARGEST if dtype.itemsize == 2 else min(LARGEST, 32)) and dtype != torch.float64
    if fits and "small" not in without and (runs_kernels(device) if kernels is None else kernels):
        return "small"
    if dtype == torch.bfloat16 or n < GRAM_FROM.get(device.type, 0) or "gram" in without:
        return "standard"
    share = share_of(n, dtype, device, without, kernels)
    return (
        "gram" if work(n, m, "gram", steps, segments, share) < work(n, m, "standard", steps, 0, share) else "standard"
    )


def share_of(
    n: int, dtype: torch.dtype, device: torch.device, without: tuple[str, ...] = (), kernels: bool | None = None
) -> float:
    """What a product with a symmetric result n x n takes of a dense one, as `product` computes it."""
    return symmetric_share(n, device) if symmetric_pays(n, dtype, device, without, kernels) else 1.0


def plain_part(n: int, m: int, form: Form, steps: int, segments: int, share: float, folded: bool) -> float:
    """What part of `work` are symmetric products to which no diagonal is added: quack-kernels has those alone."""
    ratio = m / max(n, 1)
    if form == "gram":
        segments = min(segments, steps)
        products = segments * ratio + 4 * steps - 3 * segments - (steps if folded else 0)
    else:
        products = steps * (ratio + (0 if folded else 1))
    return 2.0 * float(n) ** 3 * share * products / work(n, m, form, steps, segments, share)


def pays(
    n: int, m: int, dtype: torch.dtype, device: torch.device, steps: int = 5, without: tuple[str, ...] = ()
) -> bool:
    """Whether a form takes less than the standard one in dense products, for matrices as in `form`."""
    symmetric = symmetric_pays(n, dtype, device, without)
    return symmetric or form(n, m, dtype, device, steps, without=without) != "standard"
