"""Questions about what is too large to be kept: answered from the graph, truly or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normc
from normc.model.trace.frontend import trace
from normc.model.trace.shadow import LARGEST

SIDE = 512  # a mask of all pairs of places is larger than what is kept
assert SIDE * SIDE > LARGEST


class Masked(nn.Module):
    """Two layers, of which the answer chooses one."""

    def __init__(self, ask: Callable[[Any, Tensor], bool], mask: Tensor | None = None) -> None:
        super().__init__()
        self.stem, self.yes, self.no, self.head = (nn.Linear(8, 8) for _ in range(4))
        self.register_buffer("mask", mask, persistent=False)
        self.ask = ask

    def forward(self, x: Tensor, lengths: Tensor) -> Any:
        """x: [2, 4, 8]; lengths: [2]."""
        h = self.stem(x).tanh()
        return self.head(self.yes(h) if self.ask(self, lengths) else self.no(h))


def _pairs(net: Any, lengths: Tensor) -> Tensor:
    there = torch.arange(SIDE)[None] < lengths[:, None]
    return (there[:, None, :] & there[:, :, None]).clone()


def _written(net: Any, lengths: Tensor) -> Tensor:
    pairs = _pairs(net, lengths).float()
    pairs[:, :, 0].fill_(0)
    pairs.mul_(2)[0] -= 1
    return pairs


def _unfilled(net: Any, lengths: Tensor) -> Tensor:
    mask = torch.empty(SIDE, SIDE)
    mask.fill_(float("-inf")).triu_(1)
    return mask


def _before_and_after(net: Any, lengths: Tensor) -> bool:
    pairs = _pairs(net, lengths)
    before = bool(pairs.any())
    pairs.zero_()
    return before and not pairs.any()


YES: dict[str, Callable[[Any, Tensor], Any]] = {
    "any": lambda net, n: _pairs(net, n).any(),
    "a column of it": lambda net, n: not _pairs(net, n)[:, :, 40].any().item(),
    "how many": lambda net, n: _pairs(net, n).long().sum().item() == 3 * 3 + 5 * 5,
    "places": lambda net, n: len(_pairs(net, n).nonzero()) == 34,
    "what was written to": lambda net, n: _written(net, n).sum().item() == 2 * (3 * 2 + 5 * 4) - SIDE * SIDE,
    "a later write": _before_and_after,
    "a buffer": lambda net, n: net.mask[0, 0] + net.mask.sum() == 0,
    "what was empty first": lambda net, n: _unfilled(net, n)[3, 4:].isinf().all(),
    "what it picks": lambda net, n: len(torch.arange(2 * SIDE * SIDE)[_pairs(net, n).flatten()]) == 34,
}  # fmt: skip


@pytest.mark.parametrize("how", sorted(YES))
def test_inputs_and_buffers_answer_through_what_is_large(how: str) -> None:
    model = Masked(YES[how], torch.zeros(SIDE, SIDE))
    graph = trace(model, (torch.randn(2, 4, 8), torch.tensor([3, 5])), {})
    assert model(torch.randn(2, 4, 8), torch.tensor([3, 5])) is not None
    assert graph.nodes["yes.weight"].users and not graph.nodes["no.weight"].users
    assert not any("answered" in guess for guess in graph.guesses)


@pytest.mark.parametrize("ask", [lambda net, n: (net.stem.weight.sum() + torch.zeros(SIDE, SIDE)).sum() > 0,
                                 lambda net, n: (torch.rand(SIDE, SIDE).clone() + 0).sum() > 0])  # fmt: skip
def test_what_weights_or_chance_decide_is_made_up(ask: Callable[[Any, Tensor], Any]) -> None:
    plan = normc.plan(Masked(ask), (torch.randn(2, 4, 8), torch.tensor([3, 5])))
    assert {plan[f"{layer}.weight"].role for layer in ("yes", "no")} == {"hidden"}
    assert any("answered" in note for note in plan.notes)


class Regulated(nn.Module):
    """FastSpeech's length regulator: as many frames of each token as a layer says."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.duration, self.head = nn.Embedding(20, 8), nn.Linear(8, 1), nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: [2, 6]."""
        h = self.tokens(tokens)
        durations = self.duration(h)[..., 0].exp().round().long().clamp(min=1)
        frames = torch.zeros(2, int(durations.sum(1).max()), 8)
        for i, (one, times) in enumerate(zip(h, durations, strict=True)):
            repeated = one.repeat_interleave(times, 0)
            frames[i, : len(repeated)] = repeated
        return self.head(frames)


def test_counts_that_weights_computed_fit_the_rows_that_they_count() -> None:
    plan = normc.plan(Regulated(), torch.randint(20, (2, 6)))
    assert [plan[f"{name}.weight"].role for name in ("tokens", "head")] == ["embedding", "output"]


class Dropping(nn.Module):
    """Leaves layers out by torch's random numbers while it trains, as the models of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(8, 8), nn.Linear(8, 3)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(6))

    def forward(self, x: Tensor) -> Tensor:
        """x: [2, 8]."""
        h = self.stem(x)
        for layer in self.layers:
            if not (self.training and bool(torch.rand([]) < 0.7)):
                h = h + layer(h).tanh()
        return self.head(h)


def test_layers_that_torch_leaves_out_by_chance_are_hidden_and_none_counts_as_the_truth() -> None:
    plan = normc.plan(Dropping(), torch.randn(2, 8))
    assert {row.role for row in plan.rows if row.name.startswith("layers") and row.name.endswith("weight")} == {
        "hidden"
    }
    assert all(row.role != "unused" for row in plan.rows)


class Sparse(nn.Module):
    """Multiplies by a sparse matrix of its own making."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        """x: [4, 8]."""
        h = self.layer(x)
        rows = torch.arange(5)
        return torch.sparse_csr_tensor(rows, rows[:4], h[:, 0], (4, 4)) @ h


def test_a_sparse_matrix_that_weights_computed_is_said_to_be_what_fails() -> None:
    with pytest.raises(normc.NormcError, match=r"can't trace the forward of Sparse: aten.*sparse") as raised:
        normc.plan(Sparse(), torch.randn(4, 8))
    assert "dense tensor" in str(raised.value)
