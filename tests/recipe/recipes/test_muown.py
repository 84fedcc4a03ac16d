"""Muown: equality with its authors' algorithm written out, and rows that start at zero."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from normc.compiler import build
from tests.beside import apart, beside_adamw, orthogonal
from tests.handmade import after, draft, plan_of


class Authors:
    """Lengths and directions held apart, W made of both; momentum sums the gradients of directions."""

    def __init__(self, hidden: list[nn.Parameter], lr: float, decay: float) -> None:
        self.hidden, self.lr, self.decay, self.t = hidden, lr, decay, 0
        self.r = [torch.linalg.vector_norm(w.detach(), dim=1, keepdim=True) for w in hidden]
        self.v = [w.detach().clone() for w in hidden]
        self.m = [torch.zeros_like(w) for w in hidden]
        self.first, self.second = ([torch.zeros_like(r) for r in self.r] for _ in range(2))

    @torch.no_grad()
    def step(self) -> None:
        self.t += 1
        for i, w in enumerate(self.hidden):
            assert w.grad is not None
            size = torch.linalg.vector_norm(self.v[i], dim=1, keepdim=True)
            u = w / self.r[i]
            slope = (w.grad * u).sum(1, keepdim=True)
            g = self.r[i] / size * (w.grad - slope * u)
            self.m[i] = 0.95 * self.m[i] + g
            x = orthogonal(g + 0.95 * self.m[i])
            self.v[i] = u * size - self.lr * 0.2 * max(w.shape) ** 0.5 * x
            self.first[i] = 0.9 * self.first[i] + 0.1 * slope
            self.second[i] = 0.95 * self.second[i] + 0.05 * slope**2
            size = (self.second[i] / (1 - 0.95**self.t)).sqrt() + 1e-8
            self.r[i] = self.r[i] - self.lr * self.first[i] / (1 - 0.9**self.t) / size
            new = self.r[i] * self.v[i] / torch.linalg.vector_norm(self.v[i], dim=1, keepdim=True)
            if self.decay:
                new = new - self.lr * self.decay * w
                self.r[i] = torch.linalg.vector_norm(new, dim=1, keepdim=True)
            w.copy_(new)


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_muown_equals_its_authors(dtype: torch.dtype, tolerance: float, decay: float) -> None:
    originals = beside_adamw(lambda hidden: Authors(hidden, 5e-3, decay), 5e-3, decay)
    assert apart(dtype, "muown", originals, 5e-3, values={"weight_decay": decay}) <= tolerance


def test_lengths_move_by_lr_whatever_the_directions_do() -> None:
    """Adam's first step is lr long, and directions move no length."""
    generator = torch.Generator().manual_seed(4)
    start, grads = torch.randn(6, 4, generator=generator), torch.randn(1, 6, 4, generator=generator)
    moved = after(draft("w", (6, 4), "hidden"), start, grads, "muown")
    slope = (grads[0] * start).sum(1)
    torch.testing.assert_close(moved.norm(dim=1), start.norm(dim=1) - 0.1 * slope.sign())


def test_a_row_that_starts_at_zero_takes_muons_step_and_learns_on() -> None:
    """Beside rows that don't. From the second step on it has a length and a direction, as any other."""
    generator = torch.Generator().manual_seed(4)
    start, grads = torch.randn(6, 4, generator=generator), torch.randn(8, 6, 4, generator=generator)
    start[:2], row = 0.0, draft("w", (6, 4), "hidden")
    first = after(row, start, grads[:1], "muown")
    direction = grads[0].clone()
    unit = start[2:] / start[2:].norm(dim=1, keepdim=True)
    direction[2:] -= (direction[2:] * unit).sum(1, keepdim=True) * unit
    expected = -0.1 * 0.2 * 6**0.5 * orthogonal(direction)
    torch.testing.assert_close(first[:2], expected[:2], atol=1e-5, rtol=0)
    last = after(row, start, grads, "muown")
    assert bool(last.isfinite().all()) and not torch.allclose(last[:2], first[:2], atol=1e-2)
    none = torch.zeros(3, 6, 4)
    assert torch.equal(after(row, torch.zeros(6, 4), none, "muown"), torch.zeros(6, 4))


def test_a_missing_gradient_is_no_step() -> None:
    """Two in a stack end where each alone does, of those gradients that it had."""
    grads = torch.randn(2, 6, 8, 4, generator=torch.Generator().manual_seed(7))
    skipped, row = [{1, 2}, {0, 4}], draft("w", (8, 4), "hidden")
    named = [(f"layers.{i}.w", nn.Parameter(torch.ones(8, 4))) for i in range(2)]
    opt = build(plan_of([replace(row, name=name) for name, _ in named], "muown"), named, lr=0.1, compile=False)
    for step in range(6):
        for i, (_, parameter) in enumerate(named):
            parameter.grad = None if step in skipped[i] else grads[i, step].clone()
        opt.step()
    for i, (_, parameter) in enumerate(named):
        own = grads[i, [step for step in range(6) if step not in skipped[i]]]
        torch.testing.assert_close(parameter.detach(), after(row, torch.ones(8, 4), own, "muown"), atol=1e-5, rtol=0)


def test_a_row_keeps_four_numbers_beside_its_momentum() -> None:
    (row,) = plan_of([draft("w", (8, 4), "hidden")], "muown").rows
    assert row.state_bytes == 4 * (32 + 4 * 8 + 1)


def test_filters_and_a_plain_matrix_of_one_size_equal_the_authors() -> None:
    """They share one function, in which a view makes the filters' chain compute its values in another order."""
    generator = torch.Generator().manual_seed(4)
    rows = [draft("filters", (4, 3, 2), "hidden", kernel_axes=(2,)), draft("plain", (4, 6), "hidden")]
    named = [(row.name, nn.Parameter(torch.randn(row.shape, generator=generator).double())) for row in rows]
    flat = [nn.Parameter(parameter.detach().flatten(1).clone()) for _, parameter in named]
    plan = plan_of([replace(row, dtype="float64") for row in rows], "muown")
    ours, theirs = build(plan, named, lr=0.1, compile=False, weight_decay=0.3), Authors(flat, 0.1, 0.3)
    for _ in range(3):
        for (_, parameter), other in zip(named, flat, strict=True):
            parameter.grad = torch.randn(parameter.shape, generator=generator).double()
            other.grad = parameter.grad.flatten(1).clone()
        ours.step()
        theirs.step()
    for (_, parameter), other in zip(named, flat, strict=True):
        torch.testing.assert_close(parameter.flatten(1), other, atol=1e-12, rtol=0)
