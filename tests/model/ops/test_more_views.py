"""Views of several tensors at once, splits and joins that say where by their names, and views that copy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Laplace, Normal

import normc
from tests.model.ops.net import Shapes, planned
from tests.zoo.test_zoo import said

PACKED: Shapes = {"w": (48, 24)}


def gated(parts: tuple[Tensor, ...] | list[Tensor]) -> Tensor:
    first, second = parts
    return first * second.sigmoid()


def copied(y: Tensor) -> Tensor:
    turned = torch.transpose_copy(torch.permute_copy(y, (0, 2, 1)), 1, 2)
    return torch.squeeze_copy(torch.unsqueeze_copy(turned, 0))


aten: Any = torch  # its stubs say that copying splits return nothing

SPLITS: dict[str, Callable[[Tensor], Tensor]] = {
    "dsplit": lambda y: gated(torch.dsplit(y, 2)),
    "hsplit": lambda y: gated(torch.hsplit(y.flatten(0, 1), 2)).unflatten(0, (-1, 6)),
    "vsplit": lambda y: gated(torch.vsplit(y.flatten(0, 1).t(), 2)).t().unflatten(0, (-1, 6)),
    "tensor_split": lambda y: gated(y.tensor_split(2, -1)),
    "tensor_split by places": lambda y: gated(y.tensor_split((24,), -1)),
    "unsafe_chunk": lambda y: gated(y.unsafe_chunk(2, -1)),
    "split_copy": lambda y: gated(aten.split_copy(y, 24, -1)),
    "split_with_sizes_copy": lambda y: gated(aten.split_with_sizes_copy(y, [24, 24], -1)),
    "unbind_copy": lambda y: gated(aten.unbind_copy(y.unflatten(-1, (2, 24)), -2)),
    "narrow_copy": lambda y: gated([torch.narrow_copy(y, -1, at, 24) for at in (0, 24)]),
    "copies": lambda y: gated(copied(y).chunk(2, -1)),
    "broadcast_tensors": lambda y: gated(torch.broadcast_tensors(y, torch.ones(6, 1))[0].chunk(2, -1)),
    "renorm": lambda y: gated(torch.renorm(y, 2, 0, 5.0).chunk(2, -1)),
}  # fmt: skip


@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS)
def test_parts_are_found_through_it(split: Callable[[Tensor], Tensor]) -> None:
    plan = planned(PACKED, lambda net, h: split(torch.nn.functional.linear(h, net.w)))
    assert said(plan["w"]) == "hidden oi spectral 24 24"


JOINS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "hstack": lambda u, v: torch.hstack([u, v]).t(),
    "vstack": lambda u, v: torch.vstack([u.t(), v.t()]),
    "row_stack": lambda u, v: torch.row_stack([u.t(), v.t()]),
    "column_stack": lambda u, v: torch.column_stack([u, v]).t(),
    "dstack": lambda u, v: torch.dstack([u, v]).permute(2, 1, 0).flatten(0, 1),
}


@pytest.mark.parametrize("join", JOINS.values(), ids=JOINS)
def test_matrices_that_are_joined_are_matrices(join: Callable[[Tensor, Tensor], Tensor]) -> None:
    plan = planned({"u": (24, 12), "v": (24, 12)}, lambda net, h: h @ join(net.u, net.v).t())
    assert said(plan["u"]) == said(plan["v"]) == "hidden io spectral"


def test_weights_that_are_broadcast() -> None:
    plan = planned({"g": (24,), "b": (24,)}, lambda net, h: (lambda x, g, b: x * g + b)(
        *torch.broadcast_tensors(h, net.g, net.b)))  # fmt: skip
    assert [said(plan[name]) for name in ("g", "b")] == ["gain o rms", "bias o rms"]


@pytest.mark.parametrize("indexing", ["ij", "xy"])
def test_a_grid_of_vectors(indexing: str) -> None:
    def body(net: Any, h: Tensor) -> Tensor:
        first, second = (net.p, net.b) if indexing == "ij" else (net.b, net.p)
        return h + sum(torch.meshgrid(first, second, indexing=indexing))

    plan = planned({"p": (6,), "b": (24,)}, body)
    assert [plan[name].role for name in ("p", "b")] == ["position", "bias"]


class Policy(nn.Module):
    """A mean, a free log of the deviation, and how probable an action is."""

    def __init__(self, density: Callable[[Tensor, Tensor], torch.distributions.Distribution]) -> None:
        super().__init__()
        self.body, self.mean, self.log_std = nn.Linear(8, 16), nn.Linear(16, 3), nn.Parameter(torch.zeros(3))
        self.density = density

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        return self.density(self.mean(self.body(state).tanh()), self.log_std).log_prob(action)


DENSITIES: dict[str, Callable[[Tensor, Tensor], torch.distributions.Distribution]] = {
    "normal": lambda m, s: Normal(m, s.exp()),
    "normal, independent": lambda m, s: Independent(Normal(m, s.exp()), 1),
    "laplace": lambda m, s: Laplace(m, nn.functional.softplus(s)),
}


@pytest.mark.parametrize("density", DENSITIES.values(), ids=DENSITIES)
def test_a_policy_s_density(density: Callable[[Tensor, Tensor], torch.distributions.Distribution]) -> None:
    plan = normc.plan(Policy(density), (torch.randn(6, 8), torch.randn(6, 3)))
    assert said(plan["mean.weight"]).startswith("output oi") and said(plan["body.weight"]).startswith("input oi")
    assert plan["log_std"].role == "state" and not plan["log_std"].fallback
