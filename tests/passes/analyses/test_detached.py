"""What lies behind a detach is no part of the way that a layer's gradient comes: it doesn't make a layer hidden."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normc


class Net(nn.Module):
    """Layers by name, used by any forward."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.run = forward

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def probe(net: Any, x: Tensor) -> Any:
    h = net.last(net.first(x).relu())
    return h, net.probe(h.detach())


def unwatched(net: Any, x: Tensor) -> Any:
    y = net.last(net.first(x).relu())
    with torch.no_grad():
        judged = net.probe(y)
    return y, judged


def straight_through(net: Any, x: Tensor) -> Any:
    z = net.last(net.first(x).relu())
    return net.probe(z + (z.round() - z).detach())


def refined(net: Any, x: Tensor) -> Any:
    y = net.last(net.first(x).relu())
    fixed = y.detach()
    return y, fixed + net.probe(fixed)


CASES: dict[str, tuple[Callable[[Any, Tensor], Any], list[str]]] = {
    "a probe on features": (probe, ["input", "output", "output"]),
    "a judge without gradients": (unwatched, ["input", "output", "unused"]),
    "a straight-through estimate": (straight_through, ["input", "hidden", "output"]),
    "a second guess beside a fixed first": (refined, ["input", "output", "output"]),
}


@pytest.mark.parametrize("name", CASES)
def test_only_what_a_gradient_comes_back_from_counts_as_after(name: str) -> None:
    forward, expected = CASES[name]
    net = Net(forward, first=nn.Linear(6, 8), last=nn.Linear(8, 8), probe=nn.Linear(8, 8))
    rows = normc.plan(net, torch.randn(5, 6)).rows
    found = [row.role for row in rows if len(row.shape) == 2]
    assert found == expected
