"""A forward may move or cast itself, a submodule, or an activation to where a submodule is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normc
from normc.model.weightless import without_weights

Body = Callable[[Any, Tensor], Tensor]


class Net(nn.Module):
    def __init__(self, body: Body) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 3)
        self.rnn = nn.GRU(6, 6, batch_first=True)
        self.register_buffer("scale", torch.ones(6))
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def moved_whole(net: Any, x: Tensor) -> Tensor:
    net.to(x.device)
    out: Tensor = net.b(net.rnn(net.a(x * net.scale))[0])
    return out


def moved_last(net: Any, x: Tensor) -> Tensor:
    h = net.rnn(net.a(x))[0]
    net.b = net.b.to(h.device)
    net.rnn.cpu()
    out: Tensor = net.b(h.to(net.b.weight.device)).to("cpu")
    return out


def cast(net: Any, x: Tensor) -> Tensor:
    net.double()
    out: Tensor = net.b(net.rnn(net.a(x.double()))[0])
    return out


def cast_in_part(net: Any, x: Tensor) -> Tensor:
    h = net.rnn(net.a(x))[0]
    out: Tensor = net.b.to(h.device, torch.float64)(h.to(next(net.b.parameters())))
    return out


@pytest.mark.parametrize("body", [moved_whole, moved_last, cast, cast_in_part])
@pytest.mark.parametrize("weightless", [True, False])
def test_what_a_forward_moves_is_planned_and_left_where_it_was(body: Body, weightless: bool) -> None:
    net = without_weights(lambda: Net(body)) if weightless else Net(body)
    before = [(id(tensor), tensor.dtype) for tensor in (*net.parameters(), *net.buffers())]
    plan = normc.plan(net, torch.randn(4, 5, 6))
    assert [(row.name, row.role) for row in plan.rows if row.name.endswith("weight")] == [
        ("a.weight", "input"),
        ("b.weight", "output"),
    ]
    assert not [row.name for row in plan.rows if row.fallback or row.role == "unused"]
    assert [(id(tensor), tensor.dtype) for tensor in (*net.parameters(), *net.buffers())] == before
