"""Modula's dual recipe over 50 steps against its formula, written as a loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normc
from normc.plans.row import Row
from normc.update.ops.matrices import polar
from normc.update.polynomials.by_name import polynomials
from tests.recipe.recipes.tiny import TinyGPT, difference, made, ours, tokens


def unit(row: Row, g: Tensor) -> Tensor:
    """The unit step of a row's norm, as the paper has it (2410.21265)."""
    if row.norm == "spectral":
        return polar(g.unsqueeze(0), polynomials("polar-express", 5))[0]
    size = g.norm(dim=1, keepdim=True) if row.norm == "colnorm" else g.square().mean().sqrt()
    assert row.norm in ("colnorm", "rms")
    return g / torch.where(size > 0, size, 1.0)


class Dual:
    """m = .9 m + .1 g;  w = w - lr scale unit(m);  w = (1 - lr weight_decay target) w."""

    def __init__(self, model: nn.Module, lr: float, weight_decay: float) -> None:
        plan = normc.plan(model, (tokens(0)[:, :-1],), recipe="modular-dual")
        self.rows = [(plan[name], parameter) for name, parameter in model.named_parameters()]
        self.m = [torch.zeros_like(parameter) for _, parameter in self.rows]
        self.lr, self.weight_decay = lr, weight_decay

    @torch.no_grad()
    def step(self) -> None:
        for index, (row, w) in enumerate(self.rows):
            assert w.grad is not None
            self.m[index] = 0.9 * self.m[index] + 0.1 * w.grad
            moved = w - self.lr * row.scale.value * unit(row, self.m[index])
            w.copy_(moved * (1 - self.lr * self.weight_decay * row.target))

    def zero_grad(self) -> None:
        for _, w in self.rows:
            w.grad = None


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [pytest.param(torch.float32, 2e-5, marks=pytest.mark.slow), (torch.float64, 1e-12)]
)
def test_fifty_steps_have_their_closed_form(dtype: torch.dtype, tolerance: float) -> None:
    def theirs(model: TinyGPT) -> Any:
        return Dual(model, 0.1, 0.1)

    apart, moved = difference(
        made(dtype), lambda model: ours(model, "modular-dual", 0.1, weight_decay=0.1, backend="cpu:fp32"), theirs
    )
    assert apart < tolerance
    assert moved > 1e-3
