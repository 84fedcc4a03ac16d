"""AdaMuon: equality with the paper's algorithm, and of blocks with matrices of their own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normc.compiler import build
from normc.update.polynomials.by_name import KELLER
from tests.beside import apart
from tests.blocked import BLOCKED, Case, parts
from tests.handmade import draft, plan_of
from tests.recipe.recipes.test_muon import Named, shares

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
            x = w.grad + 0.95 * m if self.code else torch.sign(m)
            x = x / torch.linalg.matrix_norm(x)
            for _ in range(5):
                a = x @ x.T
                x = KELLER[0] * x + KELLER[1] * a @ x + KELLER[2] * a @ a @ x
            v.mul_(0.95).add_(0.05 * x**2)
            x = x / (v.sqrt() + 1e-8)
            w.mul_(1 - self.lr * 0.01).sub_(self.lr * 0.2 * (w.numel() ** 0.5 / torch.linalg.matrix_norm(x)) * x)


@pytest.mark.parametrize(("dtype", "tolerance", "code"), TOLERANCES)
def test_adamuon_equals_the_paper(dtype: torch.dtype, tolerance: float, code: bool) -> None:
    """With its sums of gradients, which normc averages."""

    def originals(named: Named) -> list[Any]:
        hidden, rest = shares(named)
        adamw = torch.optim.AdamW(rest, 5e-3, betas=(0.9, 0.95), weight_decay=0.01)
        return [Paper(hidden, 5e-3, code), adamw]

    options = {"signs": not code, "nesterov": code}
    assert apart(dtype, "adamuon", originals, 5e-3, options) <= tolerance


def after(row: Any, start: Tensor, grads: Tensor, **options: Any) -> Tensor:
    """A weight after steps with these gradients."""
    w = nn.Parameter(start.clone())
    opt = build(plan_of([row], "adamuon"), [("w", w)], lr=0.1, compile=False, **options)
    for grad in grads:
        w.grad = grad.clone()
        opt.step()
    return w.detach()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("case", BLOCKED, ids=lambda case: case.name)
def test_each_block_is_a_matrix_of_its_own(case: Case, backend: str) -> None:
    generator = torch.Generator().manual_seed(4)
    grads = torch.randn(3, *case.shape, generator=generator, dtype=torch.float64)
    start = torch.randn(case.shape, generator=generator, dtype=torch.float64)
    found = after(draft("w", case.shape, "hidden", dtype="float64", **case.facts), start, grads, backend=backend)
    every = zip(*(parts(case, grad) for grad in grads), strict=True)
    for mine, own, first in zip(parts(case, found), every, parts(case, start), strict=True):
        alone = draft("w", tuple(mine.shape), "hidden", dtype="float64")
        torch.testing.assert_close(mine, after(alone, first, torch.stack(own)), atol=1e-10, rtol=0)


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
    torch.testing.assert_close(
        after(row, start, torch.zeros(2, 4, 3, dtype=torch.float64)), start * (1 - 0.1 * 0.01) ** 2
    )
