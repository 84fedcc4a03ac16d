"""Rows that can't be right are fallbacks: an axis that does nothing, a matrix with one side."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import normc
from normc.errors import NormcError
from normc.recipe.by_name import recipes

X = torch.randn(5, 9, 10, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A part with one parameter between two layers."""

    def __init__(self, part: Callable[[Tensor, Tensor], Tensor], *shape: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(10, 12), nn.Linear(12, 3)
        self.w = nn.Parameter(torch.randn(*shape))
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.part(self.first(x).relu(), self.w))
        return out


LOST: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], tuple[int, ...]]] = {
    "a view across its axes": (lambda h, w: F.linear(h, w.view(12, 12)), (9, 16)),
    "windows of a vector": (lambda h, w: F.linear(h, w.unfold(0, 12, 1)), (23,)),
    "a strided view": (lambda h, w: F.linear(h, w.as_strided((12, 12), (1, 1))), (23,)),
    "a gain of windows": (lambda h, w: h * w.as_strided((12,), (2,)), (23,)),
    "an op without a rule": (lambda h, w: torch.linalg.solve(w + torch.eye(12), h.mT).mT, (12, 12)),
}


@pytest.mark.parametrize("name", LOST)
def test_what_is_lost_is_admitted_and_its_neighbours_keep_their_roles(name: str) -> None:
    part, shape = LOST[name]
    rows = normc.plan(Net(part, *shape), X).by_name
    assert rows["w"].fallback
    assert (rows["first.weight"].role, rows["last.weight"].role) == ("input", "output")
    with pytest.raises(NormcError, match="w"):
        normc.plan(Net(part, *shape), X, strict=True)


KNOWN: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], tuple[int, ...]]] = {
    "a vector that is summed over": (lambda h, w: h * (h @ w).sigmoid()[..., None], (12,)),
    "a column": (lambda h, w: h * (h @ w).sigmoid(), (12, 1)),
    "a row": (lambda h, w: h * F.linear(h, w).sigmoid(), (1, 12)),
    "one of several vectors": (
        lambda h, w: h * torch.stack([h @ w[i] for i in range(3)], -1).sum(-1, keepdim=True),
        (3, 12),
    ),
    "a vector that makes features": (lambda h, w: F.linear(h.mean(-1, keepdim=True), w[:, None]), (12,)),
    "filters of one channel": (
        lambda h, w: F.conv1d(h.mean(-1)[:, None], w[:, None], padding=1).mT,
        (12, 3),
    ),
    "a filter of all": (lambda h, w: F.conv1d(h.flatten(0, 1)[:, None], w[None, None], padding=1).view_as(h), (3,)),
    "a gain of one entry": (lambda h, w: h * w, (1, 1)),
    "a table of numbers": (lambda h, w: h * w[torch.arange(9)][:, None], (16,)),
}


@pytest.mark.parametrize("name", KNOWN)
def test_rows_that_have_one_side_by_right_are_no_fallbacks(name: str) -> None:
    part, shape = KNOWN[name]
    assert [row.fallback for row in normc.plan(Net(part, *shape), X, strict=True).rows] == [None] * 5


@pytest.mark.parametrize("recipe", sorted(recipes))
def test_every_recipe_steps_a_fallback_entry_by_entry(recipe: str) -> None:
    part, shape = LOST["a view across its axes"]
    plan = normc.plan(Net(part, *shape), X, recipe=recipe)
    assert plan.by_name["w"].norm == "sign"


def test_a_layer_before_an_op_without_a_rule_is_not_the_last() -> None:
    class Prototypes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.middle = nn.Linear(10, 12), nn.Linear(12, 12)
            self.w = nn.Parameter(torch.randn(12, 12))

        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.solve(self.w + torch.eye(12), self.middle(self.first(x).relu()).mT).mT

    rows = normc.plan(Prototypes(), X).by_name
    assert (rows["middle.weight"].role, bool(rows["w"].fallback)) == ("hidden", True)


def test_a_layer_before_a_weight_that_is_lost_is_not_the_last() -> None:
    net = nn.Sequential(
        nn.Linear(10, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), parametrizations.orthogonal(nn.Linear(12, 3))
    )
    rows = normc.plan(net, X).by_name
    assert (rows["2.weight"].role, bool(rows["4.parametrizations.weight.original"].fallback)) == ("hidden", True)


def test_a_bias_that_is_lost_makes_no_layer() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(10, 12), nn.Linear(12, 12, bias=False)
            self.w = nn.Parameter(torch.randn(12, 12))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.last(self.first(x).relu()) + torch.linalg.eigvalsh(self.w)
            return out

    rows = normc.plan(Shifted(), X).by_name
    assert (rows["last.weight"].role, bool(rows["w"].fallback)) == ("output", True)


def test_tokens_of_which_there_are_none_are_no_fallback() -> None:
    def part(h: Tensor, w: Tensor) -> Tensor:
        return torch.cat([w.expand(len(h), -1, -1), h], dim=1)

    assert normc.plan(Net(part, 1, 0, 12), X).by_name["w"].fallback is None
