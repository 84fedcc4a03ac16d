"""Weights that are made of others: each parameter's place in the product, and no silence where it is not known."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import normc

A, B, V, X = (8, 3), (3, 8), (8,), (5, 8)
Make = Callable[[list[Tensor], Tensor], Tensor]

# Shapes of the parameters, the layer that they make, and role and axes (fan-in, fan-out) of each.
MADE: dict[str, tuple[list[tuple[int, ...]], Make, list[tuple[str, tuple[int, ...], tuple[int, ...]]]]] = {
    "x (A B)": ([A, B], lambda p, x: x @ (p[0] @ p[1]), [("hidden", (0,), (1,))] * 2),
    "(A B) x": ([A, B], lambda p, x: F.linear(x, p[0] @ p[1]), [("hidden", (1,), (0,))] * 2),
    "einsum of two": ([A, B], lambda p, x: torch.einsum("bi,ir,ro->bo", x, *p), [("hidden", (0,), (1,))] * 2),
    "einsum before": (
        [A, B],
        lambda p, x: F.linear(x, torch.einsum("or,ri->oi", *p)),
        [("hidden", (1,), (0,))] * 2,
    ),
    "U S V": (
        [A, (3,), B],
        lambda p, x: F.linear(x, (p[0] * p[1]) @ p[2]),
        [("hidden", (1,), (0,)), ("gain", (), (0,)), ("hidden", (1,), (0,))],
    ),
    "diagonal": ([V], lambda p, x: F.linear(x, torch.diag(p[0])), [("gain", (), (0,))]),
    "U U'": ([A], lambda p, x: F.linear(x, p[0] @ p[0].T), [("hidden", (1,), (0,))]),
    "scaled along fan-in": (
        [(8, 8), V],
        lambda p, x: F.linear(x, p[0] * p[1]),
        [("hidden", (1,), (0,)), ("gain", (), (0,))],
    ),
    "scaled by exp": (
        [(8, 8), V],
        lambda p, x: F.linear(x, p[0] * p[1].exp()[:, None]),
        [("hidden", (1,), (0,)), ("state", (), (0,))],
    ),
    "inverse": ([(8, 8)], lambda p, x: F.linear(x, torch.linalg.inv(p[0])), [("hidden", (0,), (1,))]),
    "scaled by an activation": (
        [(8, 8)],
        lambda p, x: F.linear(x, p[0] * x.mean(0)),
        [("hidden", (1,), (0,))],
    ),
}


class Net(nn.Module):
    """A layer whose weight is made, between two plain ones."""

    def __init__(self, shapes: list[tuple[int, ...]], make: Make) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(8, 8), nn.Linear(8, 2)
        self.made = nn.ParameterList(nn.Parameter(torch.randn(*shape)) for shape in shapes)
        self.make = make

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.make(list(self.made), self.stem(x).relu()).relu())
        return out


@pytest.mark.parametrize("name", MADE)
def test_every_part_keeps_its_place(name: str) -> None:
    shapes, make, expected = MADE[name]
    rows = normc.plan(Net(shapes, make), torch.randn(*X), strict=True).rows
    made = [(row.role, row.in_axes, row.out_axes) for row in rows if row.name.startswith("made")]
    assert made == expected


@pytest.mark.parametrize("kind", ["cayley", "householder"])
def test_an_orthogonal_map_that_mixes_all_entries_is_said_to_be_unknown(kind: str) -> None:
    net = nn.Sequential(nn.Linear(8, 8), parametrizations.orthogonal(nn.Linear(8, 8), orthogonal_map=kind))
    plan = normc.plan(net, torch.randn(*X))
    assert [row.name for row in plan.rows if row.fallback] == ["1.parametrizations.weight.original"]


def test_a_sum_that_is_split_cuts_both_of_its_layers() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.of_input, self.of_state = nn.Linear(8, 12), nn.Linear(8, 12, bias=False)

        def forward(self, x: Tensor, h: Tensor) -> Tensor:
            a, b = (self.of_input(x) + self.of_state(h)).chunk(2, dim=-1)
            return a.tanh() * b.sigmoid()

    plan = normc.plan(Gated(), (torch.randn(*X), torch.randn(*X)))
    assert [[block.size for block in row.blocks] for row in plan.rows] == [[6, 6]] * 3


# What a matrix may go through and still be one: it is scaled by a statistic of its own, rounded, bounded, normalised.
STILL: dict[str, Callable[[Tensor], Tensor]] = {
    "its norm": lambda w: w / w.pow(2).sum(1, keepdim=True).add(1e-6).sqrt(),
    "standardised": lambda w: (w - w.mean(1, keepdim=True)) / w.var(1, keepdim=True).add(1e-5).sqrt(),
    "its root mean square": lambda w: w * torch.rsqrt(w.square().mean() + 1e-6),
    "normalised": lambda w: F.normalize(w, dim=1),
    "layer norm": lambda w: F.layer_norm(w, (8,)),
    "spectral norm": lambda w: w / torch.linalg.matrix_norm(w, 2),
    "rounded to three values": lambda w: (w / w.abs().mean()).round().clamp(-1, 1) * w.abs().mean(),
    "rounded, straight through": lambda w: w + ((w / w.abs().amax()).round() * w.abs().amax() - w).detach(),
    "its sign, straight through": lambda w: w + (w.sign() - w).detach(),
    "bounded": lambda w: w.clamp(min=0),
    "exponential of a skew one": lambda w: torch.matrix_exp(w - w.mT),
}


@pytest.mark.parametrize("name", STILL)
def test_a_matrix_scaled_by_itself_is_a_matrix(name: str) -> None:
    net = Net([(8, 8)], lambda p, x: F.linear(x, STILL[name](p[0])))
    row = normc.plan(net, torch.randn(*X), strict=True).by_name["made.0"]
    assert (row.role, row.in_axes, row.out_axes) == ("hidden", (1,), (0,))


CURVES: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp,
    "softplus": F.softplus,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "squared": torch.square,
    "absolute": torch.abs,
    "relu": torch.relu,
    "softmax": lambda w: w.softmax(-1),
    "softmax by hand": lambda w: w.exp() / w.exp().sum(1, keepdim=True),
    "summed up": lambda w: w.exp().cumsum(0),
}


@pytest.mark.parametrize("name", CURVES)
def test_a_matrix_behind_a_curve_is_a_state(name: str) -> None:
    net = Net([(8, 8)], lambda p, x: F.linear(x, CURVES[name](p[0])))
    row = normc.plan(net, torch.randn(*X), strict=True, recipe="uscion").by_name["made.0"]
    assert (row.role, row.in_axes, row.out_axes, row.norm) == ("state", (1,), (0,), "sign")


def test_a_mask_behind_a_curve_is_a_state_and_its_matrix_a_matrix() -> None:
    net = Net([(8, 8), (8, 8)], lambda p, x: F.linear(x, p[0] * p[1].sigmoid()))
    rows = normc.plan(net, torch.randn(*X), strict=True).by_name
    assert (rows["made.0"].role, rows["made.1"].role) == ("hidden", "state")
