"""Every Triton kernel once, on shapes that divide nothing: `compute-sanitizer python -m benchmarks.every_kernel`.

PYTORCH_NO_CUDA_MEMORY_CACHING=1 has the sanitizer see what is read or written outside of each tensor. With
TRITON_INTERPRET=1 it runs on a CPU.
"""

from __future__ import annotations

import itertools
import os

import torch
from torch import Tensor, nn

import normc
from benchmarks.step.ours import EXPRESS
from normc.update.kernels.newton_schulz import newton_schulz
from normc.update.kernels.normalise import normalise
from normc.update.kernels.symmetric import symmetric
from normc.update.polynomials.by_name import polynomials

SIDES = (17, 33, 128, 769, 1000, 17)


class Chain(nn.Module):
    """Linear layers from side to side."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(SIDES))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 17] to [batch, 17]."""
        for layer in self.layers:
            x = layer(x).relu()
        return x


def multiply(n: int, k: int, device: str) -> None:
    """Symmetric products from rows, from columns, and with an added matrix and diagonal."""
    x = torch.randn(2, n, k, device=device).half() / k**0.5
    square = torch.randn(2, n, n, device=device).half()
    square = square + square.mT
    for a, add in ((x, None), (x.mT.contiguous().mT, None), (square, square)):
        out = torch.full_like(square, float("nan"))
        symmetric(a, a, add=add, alpha=0.01, beta=2.0, gamma=1.0, out=out)
        assert out.isfinite().all(), (n, k)


def main() -> None:
    """Run them; an entry that isn't finite is an error."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert device == "cuda" or os.environ.get("TRITON_INTERPRET") == "1", "needs a GPU, or TRITON_INTERPRET=1"
    torch.manual_seed(0)
    express = polynomials("polar-express", 5)
    for n, k in ((17, 40), (769, 1000)):
        multiply(n, k, device)
    wide = torch.randn(2, 100, 769, device=device)
    assert normalise(wide, torch.empty_like(wide, dtype=torch.float16), 16.0).isfinite().all()
    for rows, columns in ((17, 33), (100, 500), (769, 600)):
        found = newton_schulz(torch.randn(2, rows, columns, device=device), express, dtype=torch.float16)
        assert found.isfinite().all(), (rows, columns)
    model = Chain().to(device)
    for recipe, options in (("muon", EXPRESS), ("adamw", {})):
        without = ("graph",) if device == "cuda" else ()
        opt = normc.compile(
            model, torch.zeros(2, SIDES[0], device=device), lr=1e-3, recipe=recipe, options=options, without=without
        )
        for _ in range(2):
            for parameter in model.parameters():
                parameter.grad = torch.randn_like(parameter)
            opt.step()
        assert all(parameter.isfinite().all() for parameter in model.parameters()), recipe
    print("all finite")


if __name__ == "__main__":
    main()
