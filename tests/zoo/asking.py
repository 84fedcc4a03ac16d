"""Models that ask what their weights computed, write to their weights, or run ops that only data gives a shape."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tests.zoo.awkward import vectors
from tests.zoo.case import Case, tokens


class ForcedWeights(nn.Module):
    """EDM2: every weight is normalised in place before it is normalised again in the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(16, 6)), nn.Parameter(torch.randn(16, 16))
        self.last = nn.Parameter(torch.randn(3, 16))

    def forward(self, x: Tensor) -> Tensor:
        """x: [4, 6]."""
        for weight in (self.first, self.second):
            x = F.silu(F.linear(x, self._normed(weight)))
        return F.linear(x, self._normed(self.last))

    def _normed(self, weight: Tensor) -> Tensor:
        with torch.no_grad():
            weight.copy_(F.normalize(weight, dim=1))
        return F.normalize(weight, dim=1) / weight.shape[1] ** 0.5


class EarlyExit(nn.Module):
    """Leaves after the first block if that is sure enough."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep, self.deeper = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        """x: [4, 6]."""
        h = self.stem(x).tanh()
        early = self.head(h)
        if early.softmax(-1).max() > 0.9:
            return early
        return self.head(self.deeper(self.deep(h).relu()).relu())


class FixedPoint(nn.Module):
    """A deep equilibrium model: iterates until nothing moves."""

    def __init__(self) -> None:
        super().__init__()
        self.inject, self.inside, self.head = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        """x: [4, 6]."""
        u = self.inject(x)
        z, change = torch.zeros_like(u), torch.tensor(1.0)
        while change > 1e-3:
            new = torch.tanh(0.1 * self.inside(z) + u)
            change, z = (new - z).norm(), new
        return self.head(z)


class EagerExperts(nn.Module):
    """A mixture of experts that runs those that were hit, one after the other, and passes over the number for none."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.router = nn.Embedding(96, 16), nn.LayerNorm(16), nn.Linear(16, 4, bias=False)
        self.up, self.down = nn.Parameter(torch.randn(4, 48, 16) * 0.1), nn.Parameter(torch.randn(4, 16, 24) * 0.1)
        self.head = nn.Linear(16, 96, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """ids: [2, 8]."""
        x = self.embed(ids).flatten(0, 1)
        h, out = self.norm(x), torch.zeros_like(x)
        weights, chosen = self.router(h).softmax(-1).topk(2)
        hits = F.one_hot(chosen, 4).permute(2, 1, 0)
        for hit in (hits.sum((-1, -2)) > 0).nonzero():
            expert = hit[0]
            if expert == 4:
                continue
            slot, token = torch.where(hits[expert])
            gate, up = F.linear(h[token], self.up[expert]).chunk(2, -1)
            result = F.linear(F.silu(gate) * up, self.down[expert]) * weights[token, slot, None]
            out.index_add_(0, token, result)
        return self.head(x + out)


class Tagger(nn.Module):
    """An LSTM over sequences that are packed by their lengths, and words of a largest norm."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.lstm, self.head = nn.Embedding(96, 8, max_norm=1.0), nn.LSTM(8, 6), nn.Linear(6, 5)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """ids: [2, 8]; lengths: [2]."""
        packed: Any = pack_padded_sequence(self.words(ids).transpose(0, 1), lengths, enforce_sorted=False)
        return self.head(pad_packed_sequence(self.lstm(packed)[0])[0])


class Forked(nn.Module):
    """torch.cond between two layers, and a layer behind either."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.yes, self.no, self.head = (
            nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 5),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """x: [4, 6]."""
        h = self.stem(x).relu()
        return self.head(torch.cond(h.mean() > 0, lambda h: self.yes(h), lambda h: self.no(h), (h,)).relu())


ASKING: dict[str, Case] = {
    "forced-weights": Case(
        ForcedWeights,
        lambda: vectors(4, 6),
        {"first": "input oi spectral", "second": "hidden oi spectral", "last": "output oi sign"},
    ),
    "early-exit": Case(
        EarlyExit,
        lambda: vectors(4, 6),
        {
            "stem.weight": "input oi spectral",
            "deep*.weight": "hidden oi spectral",
            "head.weight": "output oi sign",
            "*bias": "bias o rms",
        },
    ),
    "fixed-point": Case(
        FixedPoint,
        lambda: vectors(4, 6),
        {
            "inject.weight": "input oi spectral",
            "inside.weight": "hidden oi spectral",
            "head.weight": "output oi sign",
            "*bias": "bias o rms",
        },
    ),
    "eager-experts": Case(
        EagerExperts,
        tokens,
        {
            "embed.weight": "embedding xo colnorm",
            "norm.*": "gain o rms",
            "norm.bias": "bias o rms",
            "router.weight": "router oi rownorm",
            "up": "hidden boi spectral 24 24",
            "down": "hidden boi spectral",
            "head.weight": "output oi sign",
        },
    ),
    "packed-tagger": Case(
        Tagger,
        lambda: (tokens(), torch.tensor([8, 5])),
        {
            "words.weight": "embedding xo colnorm",
            "lstm.weight_*": "hidden oi spectral 6 6 6 6",
            "lstm.bias_*": "bias o rms 6 6 6 6",
            "head.weight": "output oi sign",
            "head.bias": "bias o rms",
        },
    ),
    "forked": Case(
        Forked,
        lambda: vectors(4, 6),
        {
            "stem.weight": "input oi spectral",
            "yes.weight": "hidden oi spectral",
            "no.weight": "hidden oi spectral",
            "head.weight": "output oi sign",
            "*bias": "bias o rms",
        },
    ),
}
