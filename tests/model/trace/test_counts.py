"""Experts by number: what a forward counts adds up, and what no answer has chosen is read on another path."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import normc

EXPERTS = 5


class Sorted(nn.Module):
    """Tokens sorted by expert, and split by how many each expert has."""

    def __init__(self, count: Callable[[Tensor], list[int]]) -> None:
        super().__init__()
        self.stem, self.router, self.head = nn.Linear(8, 24), nn.Linear(24, EXPERTS), nn.Linear(24, 3)
        self.experts = nn.ModuleList(nn.Linear(24, 24) for _ in range(EXPERTS))
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x).flatten(0, 1)
        share, chosen = self.router(h).softmax(-1).max(-1)
        order = chosen.argsort()
        parts = h[order].split(self.count(chosen))
        results = torch.cat([self.experts[i](part) for i, part in enumerate(parts)])
        found = torch.zeros_like(results).index_copy(0, order, results)
        out: Tensor = self.head(found * share[:, None])
        return out


class Walked(Sorted):
    """The same by where each expert's tokens end; who has none is left out."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x).flatten(0, 1)
        share, chosen = self.router(h).softmax(-1).topk(2)
        order = chosen.view(-1).argsort()
        ends = chosen.view(-1).bincount(minlength=EXPERTS).cumsum(0).cpu().numpy()
        found = torch.zeros_like(h)
        for i, end in enumerate(ends):
            start = 0 if i == 0 else ends[i - 1]
            if start == end:
                continue
            rows = order[start:end]
            found.index_add_(0, rows // 2, self.experts[i](h[rows // 2]) * share.view(-1, 1)[rows])
        out: Tensor = self.head(found)
        return out


COUNTS: list[Callable[[Tensor], list[int]]] = [
    lambda chosen: torch.bincount(chosen, minlength=EXPERTS).tolist(),
    lambda chosen: [int(count) for count in chosen.bincount(minlength=EXPERTS)],
    lambda chosen: F.one_hot(chosen, EXPERTS).sum(0).tolist(),
    lambda chosen: torch.histc(chosen.float(), bins=EXPERTS, min=0, max=EXPERTS - 1).int().tolist(),
    lambda chosen: [int((chosen == i).sum()) for i in range(EXPERTS)],
]


def unread(model: nn.Module) -> list[str]:
    plan = normc.plan(model, torch.randn(3, 7, 8))
    assert all(row.fallback is None for row in plan.rows)
    return [row.name for row in plan.rows if row.role == "unused"]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("kind", [Sorted, Walked])
def test_counts_add_up_to_what_is_counted(kind: type[Sorted], count: Callable[[Tensor], list[int]]) -> None:
    assert unread(kind(count)) == []


class Chosen(nn.Module):
    """One expert for all tokens, by its number."""

    def __init__(self, choose: Callable[[Tensor], int]) -> None:
        super().__init__()
        self.stem, self.router, self.head = nn.Linear(8, 24), nn.Linear(24, EXPERTS), nn.Linear(24, 3)
        self.experts = nn.ModuleList(nn.Linear(24, 24) for _ in range(EXPERTS))
        self.choose = choose

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        scores = self.router(h.mean((0, 1)))
        out: Tensor = self.head(self.experts[self.choose(scores)](h) * scores.max())
        return out


CHOICES: list[Callable[[Tensor], int]] = [
    lambda scores: int(scores.argmax(-1).item()),
    lambda scores: int(scores.argmax()),
    lambda scores: int(scores.topk(1).indices.tolist()[0]),
    lambda scores: int(torch.multinomial(scores.softmax(-1), 1)),
]


@pytest.mark.parametrize("choose", CHOICES)
def test_experts_that_are_chosen_by_number_are_all_planned(choose: Callable[[Tensor], int]) -> None:
    assert unread(Chosen(choose)) == []
