"""Products that sum over nothing: along an axis of length one that the weight doesn't have itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import normc


class Grown(nn.Module):
    """New features of one number, made by a product that sums over nothing."""

    def __init__(self, spell: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.rates, self.head, self.spell = nn.Parameter(torch.randn(8)), nn.Linear(8, 3), spell

    def forward(self, x: Tensor) -> Tensor:
        """x: [4]."""
        return self.head(self.spell(x, self.rates).tanh())


OUTER: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mul": lambda x, w: x[:, None] * w,
    "matmul": lambda x, w: x[:, None] @ w[None],
    "mm": lambda x, w: torch.mm(x[:, None], w.unsqueeze(0)),
    "on the left": lambda x, w: (w[:, None] @ x[None]).t(),
}


@pytest.mark.parametrize("how", sorted(OUTER))
def test_a_product_without_a_sum_is_a_gain_however_it_is_spelled(how: str) -> None:
    row, plain = (normc.plan(Grown(OUTER[one]), torch.randn(4))["rates"] for one in (how, "mul"))
    assert (row.role, row.fallback, row.out_axes, row.target) == (plain.role, None, plain.out_axes, plain.target)
    assert row.role == "gain"


class Turned(nn.Module):
    """Rotary positions of learned rates (timm's rope_mixed): a product of places and rates that sums over nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.head = nn.Linear(6, 16), nn.Linear(6, 16), nn.Linear(6, 3)
        self.rates = nn.Parameter(torch.randn(2, 8))
        self.places: Tensor
        self.register_buffer("places", torch.arange(5.0))

    def forward(self, x: Tensor) -> Tensor:
        """x: [2, 5, 6]."""
        one, other = (self.places[:, None] @ self.rates[axis].unsqueeze(-2) for axis in range(2))
        angles = one + other
        q, k = (self._turned(layer(x), angles) for layer in (self.q, self.k))
        return self.head((q @ k.mT).softmax(-1) @ x)

    @staticmethod
    def _turned(h: Tensor, angles: Tensor) -> Tensor:
        one, other = h.chunk(2, -1)
        return torch.cat([one * angles.cos() - other * angles.sin(), one * angles.sin() + other * angles.cos()], -1)


def test_learned_rates_of_rotary_positions_are_state() -> None:
    plan = normc.plan(Turned(), torch.randn(2, 5, 6))
    assert (plan["rates"].role, plan["rates"].fallback) == ("state", None)
    assert {plan[f"{name}.weight"].fallback for name in ("q", "k", "head")} == {None}


def test_a_matrix_of_one_input_stays_one() -> None:
    plan = normc.plan(nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 3)), torch.randn(4, 1))
    assert [row.role for row in plan.rows if row.name.endswith("weight")] == ["input", "output"]
