"""AdaMuon: equality with the paper's algorithm, and the size of a step."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from normc.compiler import build
from tests.beside import apart, beside_adamw, orthogonal
from tests.handmade import after, draft, plan_of

# In float32 rounding chooses signs of averages that are nearly zero: only steps without signs are compared there.
TOLERANCES = [(torch.float64, 1e-12, False), (torch.float64, 1e-12, True), (torch.float32, 1e-4, True)]


class Paper:
    """From arXiv 2507.11005: M = beta M + G, O = NS(sign(M)), V = beta V + (1 - beta) O^2, and a step of RMS 0.2.

    `code` is what the authors' code does: Nesterov's momentum, and no signs.
    """

    def __init__(self, hidden: list[nn.Parameter], lr: float, code: bool) -> None:
        self.hidden, self.lr, self.code = hidden, lr, code
        self.sums, self.squares = ([torch.zeros_like(w) for w in hidden] for _ in range(2))

    @torch.no_grad()
    def step(self) -> None:
        for w, m, v in zip(self.hidden, self.sums, self.squares, strict=True):
            assert w.grad is not None
            m.mul_(0.95).add_(w.grad)
            x = orthogonal(w.grad + 0.95 * m if self.code else torch.sign(m))
            v.mul_(0.95).add_(0.05 * x**2)
            x = x / (v.sqrt() + 1e-8)
            w.mul_(1 - self.lr * 0.01).sub_(self.lr * 0.2 * (w.numel() ** 0.5 / torch.linalg.matrix_norm(x)) * x)


@pytest.mark.parametrize(("dtype", "tolerance", "code"), TOLERANCES)
def test_adamuon_equals_the_paper(dtype: torch.dtype, tolerance: float, code: bool) -> None:
    """With its sums of gradients, which normc averages."""
    originals = beside_adamw(lambda hidden: Paper(hidden, 5e-3, code), 5e-3)
    options = {"signs": not code, "nesterov": code}
    assert apart(dtype, "adamuon", originals, 5e-3, options) <= tolerance


def test_every_step_of_a_matrix_has_rms_a_fifth() -> None:
    w = nn.Parameter(torch.zeros(12, 5))
    opt = build(
        plan_of([draft("w", (12, 5), "hidden")], "adamuon"), [("w", w)], lr=1.0, compile=False, weight_decay=0.0
    )
    for seed in range(4):
        before = w.detach().clone()
        w.grad = torch.randn(12, 5, generator=torch.Generator().manual_seed(seed)) * 10.0**-seed
        opt.step()
        assert float((w.detach() - before).square().mean().sqrt()) == pytest.approx(0.2, rel=1e-5)
    assert opt.state[w]["step_sq"].shape == w.shape


def test_without_gradient_it_stays_finite() -> None:
    start = torch.ones(4, 3, dtype=torch.float64)
    row = draft("w", (4, 3), "hidden", dtype="float64")
    found = after(row, start, torch.zeros(2, 4, 3, dtype=torch.float64), "adamuon")
    torch.testing.assert_close(found, start * (1 - 0.1 * 0.01) ** 2)
