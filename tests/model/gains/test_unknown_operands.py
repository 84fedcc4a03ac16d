"""A size that isn't known beside one that is: the op is not tried out, and the plan is made all the same."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import normc


def test_a_function_of_what_has_no_size_is_planned() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x)
            odd = torch.linalg.svd(h, full_matrices=False)[0]
            out: Tensor = self.last(torch.exp(-(h - odd).square()) * 1e-6)
            return out

    plan = normc.plan(Net(), torch.randn(8, 6))
    assert [row.role for row in plan.rows] == ["input", "bias", "output", "bias"]
