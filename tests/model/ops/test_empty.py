"""A tensor without entries on the way: a step of a scan that has none, a batch of nothing, no expert of a stack."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import normc

Body = Callable[["Net", Tensor], Tensor]


class Net(nn.Module):
    def __init__(self, body: Body) -> None:
        super().__init__()
        self.first, self.layer, self.last = nn.Linear(20, 24), nn.Linear(24, 24), nn.Linear(24, 5)
        self.gain, self.table = nn.Parameter(torch.ones(24)), nn.Parameter(torch.zeros(9, 24))
        self.stack, self.body = nn.Parameter(torch.randn(3, 24, 24)), body

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.body(self, self.first(x)))
        return out


BODIES: dict[str, Body] = {
    "a gain": lambda net, h: torch.cat((h, h[:, 9:] * net.gain), 1),
    "a table along no places": lambda net, h: torch.cat((h, h[:, 4:4] + net.table[4:4]), 1),
    "a table along no samples": lambda net, h: torch.cat((h, h[:0] * net.table), 0),
    "a layer": lambda net, h: torch.cat((h, net.layer(h[:, 9:])), 1),
    "a product": lambda net, h: torch.cat((h, h[:0] @ net.layer.weight), 0),
    "a layer of no features": lambda net, h: h + F.linear(F.linear(h, net.layer.weight[:0]), net.layer.weight[:, :0]),
    "einsum": lambda net, h: torch.cat((h, torch.einsum("btc,cd->btd", h[:, 9:], net.layer.weight)), 1),
    "a product and a sum": lambda net, h: torch.cat((h, (h[:, 9:, :, None] * net.layer.weight).sum(-2)), 1),
    "no matrix of a stack": lambda net, h: torch.cat((h, torch.bmm(h[:0], net.stack[torch.zeros(0).long()])), 0),
    "attention of nothing": lambda net, h: torch.cat((h, F.scaled_dot_product_attention(h[:, 9:], h, h)), 1),
    "heads of nothing": lambda net, h: torch.cat((h, h[:, 9:].unflatten(-1, (4, 6)).transpose(1, 2).flatten(2, 3)[:, :, :24].reshape(6, 0, 24)), 1),  # noqa: E501
    "repeated never": lambda net, h: torch.cat((h, h.repeat(1, 0, 1)), 1),
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_its_neighbours_are_planned(name: str) -> None:
    plan = normc.plan(Net(BODIES[name]), torch.randn(6, 9, 20))
    assert (plan["first.weight"].role, plan["last.weight"].role) == ("input", "output")
