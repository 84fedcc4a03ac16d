"""Outputs that alternate entry by entry: followed while they can be, and said where they can't."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import normc


class Alternating(nn.Module):
    """Gate and what it gates in turn, from one matrix of 2 n outputs."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.stem, self.both, self.head = nn.Linear(8, 4), nn.Linear(4, 2 * n), nn.Linear(n, 3)

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, 8]."""
        gate, up = self.both(self.stem(x)).unflatten(-1, (-1, 2)).unbind(-1)
        out: Tensor = self.head(gate.sigmoid() * up)
        return out


@pytest.mark.parametrize("n", [3, 8192])
def test_alternating_parts_are_blocks(n: int) -> None:
    plan = normc.plan(Alternating(n), torch.randn(2, 8))
    gate, up = plan["both.weight"].blocks
    assert gate.spans == tuple((2 * i, 2 * i + 1) for i in range(n))
    assert up.spans == tuple((2 * i + 1, 2 * i + 2) for i in range(n))
    assert not plan.notes


def test_too_many_turns_are_one_block_and_the_plan_says_so() -> None:
    plan = normc.plan(Alternating(20_000), torch.randn(2, 8))
    assert not plan["both.weight"].blocks
    assert any(note.startswith("both.weight is taken for one block") for note in plan.notes)
