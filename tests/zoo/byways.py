"""Models whose parameters gradients reach by byways: rewritten weights, first states, guessed paths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.flex_attention import flex_attention

from tests.zoo.awkward import vectors

Kind = Callable[..., nn.Module]


class Framed(nn.Module):
    """A first and a last layer around `core`, which a subclass gives."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.core(self.stem(x).relu()))

    def core(self, h: Tensor) -> Tensor:
        raise NotImplementedError


class Rewritten(Framed):
    """A weight that the forward writes in place, without gradients, before it reads it."""

    def __init__(self, write: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.middle, self.write = nn.Linear(12, 12), write

    def core(self, h: Tensor) -> Tensor:
        with torch.no_grad():
            self.write(self.middle.weight)
        return self.middle(h)


class RewrittenWhileTraining(Framed):
    """EDM2's forced weight normalisation: in training the stored weight is normalised, then again in the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(12, 12))

    def core(self, h: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.weight.copy_(F.normalize(self.weight, dim=1))
        return F.linear(h, F.normalize(self.weight, dim=1) / 12**0.5)


class RewrittenBetween(Framed):
    """A weight that is read, written without gradients (to the memory alone, not to the version), and read again."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 12), nn.Parameter(torch.randn(12, 12))

    def core(self, h: Tensor) -> Tensor:
        h = self.first(h).tanh()
        self.second.data.mul_(0.5)
        return h @ self.second


class LearnedStart(Framed):
    """A recurrent layer with learned first states."""

    def __init__(self, kind: Kind, layers: int = 1, twoway: bool = False, cell: bool = False) -> None:
        super().__init__()
        self.layer = kind(12, 12, num_layers=layers, bidirectional=twoway, batch_first=True)
        states = layers * (2 if twoway else 1)
        self.start = nn.Parameter(torch.randn(states, 1, 12))
        self.cell = nn.Parameter(torch.randn(states, 1, 12)) if cell else None
        self.fold = nn.Linear(12 * (2 if twoway else 1), 12)

    def core(self, h: Tensor) -> Tensor:
        start = self.start.expand(-1, h.shape[0], -1).contiguous()
        if self.cell is None:
            return self.fold(self.layer(h, start)[0])
        return self.fold(self.layer(h, (start, self.cell.expand(-1, h.shape[0], -1).contiguous()))[0])


class LearnedCells(Framed):
    """The same with cells, one step at a time."""

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        self.cell, self.start, self.memory = kind(12, 12), nn.Parameter(torch.randn(12)), nn.Parameter(torch.randn(12))

    def core(self, h: Tensor) -> Tensor:
        state = self.start.expand(h.shape[0], 12)
        memory = self.memory.expand(h.shape[0], 12)
        outs = []
        for step in h.unbind(1):
            if isinstance(self.cell, nn.LSTMCell):
                state, memory = self.cell(step, (state, memory))
            else:
                state = self.cell(step, state + memory)
            outs.append(state)
        return torch.stack(outs, 1)


class Slopes(Framed):
    """flex_attention, whose score function holds parameters: a slope a head, a table of distances, a gate."""

    def __init__(self) -> None:
        super().__init__(32)
        self.qkv = nn.Linear(32, 96)
        self.slope, self.table = nn.Parameter(torch.randn(2)), nn.Parameter(torch.randn(2, 32))
        self.gate = nn.Linear(32, 2)

    def core(self, h: Tensor) -> Tensor:
        batch, time, _ = h.shape
        q, k, v = self.qkv(h).view(batch, time, 3, 2, 16).permute(2, 0, 3, 1, 4)
        gates = self.gate(h).transpose(1, 2)

        def score(s: Tensor, b: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return s + self.slope[head] * (i - j) + self.table[head, i - j + 16] + gates[b, head, j]

        return flex_attention(q, k, v, score_mod=score).transpose(1, 2).flatten(2)


class Forked(Framed):
    """torch.cond: two branches, each with a layer of its own."""

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.yes, self.no, self.bound = nn.Linear(12, 12), nn.Linear(12, 12), bound

    def core(self, h: Tensor) -> Tensor:
        return torch.cond(h.abs().mean() > self.bound, lambda h: self.yes(h), lambda h: self.no(h), (h,))


class Asking(Framed):
    """A path that depends on what weights computed; `question` chooses between a short and a long one."""

    def __init__(self, question: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.short, self.long, self.question = nn.Linear(12, 12), nn.Sequential(nn.Linear(12, 12), nn.Tanh()), question

    def core(self, h: Tensor) -> Tensor:
        return self.short(h) if self.question(h.tanh()) else self.long(h)


class Settling(Framed):
    """A fixed point: the loop ends once it has settled."""

    def __init__(self, most: int = 20) -> None:
        super().__init__()
        self.inside, self.outside, self.most = nn.Linear(12, 12), nn.Linear(12, 12), most

    def core(self, h: Tensor) -> Tensor:
        z = torch.zeros_like(h)
        for _ in range(self.most):
            new = torch.tanh(0.2 * self.inside(z) + self.outside(h))
            if (new - z).norm() < 1e-4:
                break
            z = new
        return z


class HitExperts(Framed):
    """Experts that are run if a token chose them; `skip` says how those that none chose are passed over."""

    def __init__(self, skip: str) -> None:
        super().__init__()
        self.norm, self.router = nn.LayerNorm(12), nn.Linear(12, 3, bias=False)
        self.experts, self.skip = nn.ModuleList(nn.Linear(12, 12) for _ in range(3)), skip

    def core(self, h: Tensor) -> Tensor:
        flat = self.norm(h).flatten(0, 1)
        weights, chosen = self.router(flat).softmax(-1).topk(2)
        hits = F.one_hot(chosen, 3).permute(2, 1, 0)
        out = torch.zeros_like(flat)
        if self.skip == "last one is for none":
            indices = hits.sum((-1, -2)).greater(0).nonzero()
        else:
            indices = torch.arange(3)[:, None]
        for index in indices:
            number = index[0]
            if self.skip == "last one is for none" and number == 3:
                continue
            slot, token = torch.where(hits[number])
            if self.skip == "none chose it" and token.numel() == 0:
                continue
            if self.skip == "not any" and not hits[number].any():
                continue
            expert = self.experts[int(number)]
            out = out.index_add(0, token, expert(flat[token]) * weights[token, slot, None])
        return h + out.view_as(h)


Build = Callable[[], tuple[nn.Module, tuple[Any, ...]]]


def framed(make: Callable[..., nn.Module], *options: Any, **named: Any) -> Build:
    """The model that `make` makes with the options, on vectors."""
    return lambda: (make(*options, **named), (vectors(4, 5, 6),))


BYWAYS: dict[str, Build] = {
    "halved": framed(Rewritten, lambda w: w.div_(2)),
    "clamped": framed(Rewritten, lambda w: w.clamp_(-0.1, 0.1)),
    "renormed": framed(Rewritten, lambda w: w.copy_(w.renorm(2, 0, 1.0))),
    "row zeroed": framed(Rewritten, lambda w: w[0].zero_()),
    "mixed in": framed(Rewritten, lambda w: w.lerp_(torch.zeros_like(w), 0.1)),
    "set by data": framed(Rewritten, lambda w: w.data.mul_(0.9)),
    "normalised in training": framed(RewrittenWhileTraining),
    "rewritten between": framed(RewrittenBetween),
    "embedding with a largest norm": lambda: (
        nn.Sequential(nn.Embedding(9, 8, max_norm=1.0), nn.Linear(8, 3)),
        (torch.tensor([[3, 1, 4], [1, 5, 8]]),),
    ),
    "rnn starts": framed(LearnedStart, nn.RNN),
    "gru starts": framed(LearnedStart, nn.GRU, layers=2),
    "lstm starts": framed(LearnedStart, nn.LSTM, twoway=True, cell=True),
    "rnn cells": framed(LearnedCells, nn.RNNCell),
    "gru cells": framed(LearnedCells, nn.GRUCell),
    "lstm cells": framed(LearnedCells, nn.LSTMCell),
    "score function": lambda: (Slopes(), (vectors(2, 16, 6),)),
    "cond, yes": framed(Forked, 0.0),
    "cond, no": framed(Forked, 9.0),
    "asked and yes": framed(Asking, lambda h: h.abs().mean() < 1.0),
    "asked and no": framed(Asking, lambda h: h.abs().mean() > 1.0),
    "equal to a number": framed(Asking, lambda h: h.argmax() == -1),
    "not equal to a number": framed(Asking, lambda h: h.argmax() != -1),
    "asked for an item": framed(Asking, lambda h: h.abs().mean().item() > 1.0),
    "asked about all": framed(Asking, lambda h: torch.equal(h, h + 1)),
    "settles": framed(Settling),
    "experts": framed(HitExperts, "last one is for none"),
    "experts counted": framed(HitExperts, "none chose it"),
    "experts asked": framed(HitExperts, "not any"),
}
