"""Matrices whose singular values are known, and what a result is held to."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from normc.update.polynomials.by_name import polynomials

EXPRESS = polynomials("polar-express", 5)
CUBIC = polynomials("newton-schulz:degree=3", 7)
SPECTRA = ("gaussian", "inverse", "deficient")


def spectrum(kind: str, n: int, m: int, batch: int = 2, seed: int = 0) -> Tensor:
    """[batch, n, m] in float64: Gaussian, singular values 1/i, or a quarter of them ones and the others zero."""
    x = torch.randn(batch, n, m, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    if kind == "gaussian":
        return x
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    place = torch.arange(1, s.shape[-1] + 1, dtype=torch.float64)
    return (u * (1 / place if kind == "inverse" else (place <= max(s.shape[-1] // 4, 1)).double())) @ v


def reference(x: Tensor, steps: tuple[tuple[float, float, float], ...] = EXPRESS) -> Tensor:
    """Newton-Schulz in float64, as it is written: zero for zero."""
    y = x.double()
    peak = y.abs().amax((-2, -1), keepdim=True)
    y = y / torch.where(peak > 0, peak, 1.0)
    length = y.square().sum((-2, -1), keepdim=True).sqrt()
    y = y / torch.where(length > 0, length, 1.0)
    tall = y.shape[-2] > y.shape[-1]
    y = y.mT if tall else y
    for a, b, c in steps:
        gram = y @ y.mT
        y = a * y + (b * gram + c * gram @ gram) @ y
    return y.mT if tall else y


def error(found: Tensor, expected: Tensor) -> float:
    """The Frobenius norm of the difference, relative."""
    found = found.double().cpu()
    return float((found - expected.cpu()).norm() / expected.norm().clamp(min=1e-300))


def share(x: Tensor) -> float:
    """How many of the singular values lie in [0.7, 1.2]."""
    s = torch.linalg.svdvals(x.double().cpu())
    return float(((s >= 0.7) & (s <= 1.2)).double().mean())


def adversarial(n: int, m: int, dtype: torch.dtype, rounds: int = 1) -> Iterator[Tensor]:
    """Finite matrices [k, n, m] that kernels may stumble over: huge, tiny, sparse, repeated, badly scaled."""
    for seed in range(rounds):
        x = spectrum("gaussian", n, m, 1, seed)[0]
        one = torch.zeros(n, m, dtype=torch.float64)
        one[seed % n, (3 * seed) % m] = 1.0
        ramp = torch.logspace(0, -12, n, dtype=torch.float64)[:, None]
        spike = x * 1e-5 + one
        largest, least = (float(v) for v in (torch.finfo(dtype).max, torch.finfo(dtype).smallest_normal))
        cases = [
            torch.zeros_like(x), x, one, -one, one * largest, one * least, x.clamp(-1, 1) * largest,
            x * least, x * ramp, x[:1].expand(n, m), x[:, :1].expand(n, m), torch.ones_like(x), spike,
            x.sign(), torch.cat([x[: n // 2], x[: n - n // 2]]), torch.eye(n, m, dtype=torch.float64), x.relu() ** 8,
            torch.eye(n, m, dtype=torch.float64) + 1e-3 * x, x * (x.abs() > 2), x * ramp.flip(0),
        ]  # fmt: skip
        yield torch.stack(cases).to(dtype)
