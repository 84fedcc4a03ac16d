"""Scripted and traced modules and functions are seen op by op, before they have been profiled and after."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normc

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def gelu_of_sum(bias: Tensor, x: Tensor, scale: float = 0.5) -> Tensor:
    """With a default that a call leaves out."""
    x = bias + x
    if x.numel() > 3:
        x = x * 2.0
    return x * scale * (1.0 + torch.tanh(0.79788456 * x * (1 + 0.044715 * x * x)))


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.gain = nn.Linear(8, 8), nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        return (self.linear(x) * self.gain).relu() + 1.0


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(8, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.mix(x)) + x


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.fused: Any = torch.jit.script(gelu_of_sum)
            self.scripted: Any = torch.jit.script(Inner())
            self.traced: Any = torch.jit.trace(Plain(), torch.randn(4, 8))
        self.stem, self.bias, self.head = nn.Linear(6, 8, bias=False), nn.Parameter(torch.zeros(8)), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        """x: [4, 6]."""
        return self.head(self.traced(self.scripted(self.fused(self.bias, x=self.stem(x)))))


def test_every_plan_is_the_first() -> None:
    model, x = Net(), torch.randn(4, 6)
    first = normc.plan(model, x)
    roles = {row.name: row.role for row in first.rows}
    assert (roles["stem.weight"], roles["bias"]) == ("input", "bias")
    assert (roles["scripted.linear.weight"], roles["scripted.gain"]) == ("hidden", "gain")
    assert (roles["traced.mix.weight"], roles["head.weight"]) == ("hidden", "output")
    hashes = {first.hash, normc.plan(model, x).hash, normc.plan(model, x).hash}
    for _ in range(4):
        model(x).square().mean().backward()
    hashes.add(normc.plan(model, x).hash)
    with torch.no_grad():
        [model(x) for _ in range(4)]
    assert hashes | {normc.plan(model, x).hash} == {first.hash}


def test_scripted_code_runs_as_before_when_a_plan_is_made() -> None:
    model, x = Net(), torch.randn(4, 6)
    before, call = model(x), torch._C.ScriptFunction.__call__
    normc.plan(model, x)
    assert torch._C.ScriptFunction.__call__ is call
    torch.testing.assert_close(model(x), before)
