"""A loop that treats its parts alike, side by side, is no reason to tell them apart; one that doesn't is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import normc
from tests.passes.analyses.fused import BATCH, HEAD, HEADS, PLACES, WIDTH, Fused, blocks_of, kept_whole


class HeadLoop(Fused):
    """A loop over heads; a bias of each."""

    def more(self) -> None:
        self.bias = nn.Parameter(torch.randn(HEADS, PLACES, PLACES))

    def core(self, h: Tensor) -> Tensor:
        q, k, v = self.thirds(h)
        return torch.cat([(q[:, i] @ k[:, i].mT + self.bias[i]).softmax(-1) @ v[:, i] for i in range(HEADS)], -1)


class SummedHeadLoop(Fused):
    """A loop over heads that adds what each sends through its rows of the output matrix; the layer is used twice."""

    def more(self) -> None:
        self.out = nn.Parameter(torch.randn(WIDTH, WIDTH))

    def core(self, h: Tensor) -> Tensor:
        for _ in range(2):
            q, k, v = self.thirds(h)
            for i, rows in enumerate(self.out.split(HEAD)):
                h = h + kept_whole(*(x[:, i : i + 1] for x in (q, k, v))) @ rows
        return h


class WrittenHeadLoop(Fused):
    """A loop over heads whose results are written into one tensor."""

    def core(self, h: Tensor) -> Tensor:
        out = torch.empty(BATCH, PLACES, WIDTH)
        for i, (q, k, v) in enumerate(zip(*(x.unbind(1) for x in self.thirds(h)), strict=True)):
            out[..., i * HEAD : (i + 1) * HEAD] = (q @ k.mT).softmax(-1) @ v
        return out


class InterleavedHeadLoop(Fused):
    """A loop over heads, whose q, k and v stand beside each other in the fused output."""

    def core(self, h: Tensor) -> Tensor:
        heads = [part.chunk(3, -1) for part in self.fused(h).chunk(HEADS, -1)]
        return torch.cat([(q @ k.mT).softmax(-1) @ v for q, k, v in heads], -1)


class OneKey(Fused):
    """A loop over heads that share a key and a value."""

    rows = WIDTH + 2 * HEAD

    def core(self, h: Tensor) -> Tensor:
        q, k, v = self.fused(h).split([WIDTH, HEAD, HEAD], -1)
        return torch.cat([(head @ k.mT).softmax(-1) @ v for head in q.chunk(HEADS, -1)], -1)


class Gates(Fused):
    """A recurrence: three gates by one comprehension, two of them and the candidate on one line."""

    rows = 4 * WIDTH

    def core(self, h: Tensor) -> Tensor:
        state, outs = torch.zeros(BATCH, WIDTH), []
        for y in self.fused(h).unbind(1):
            *gates, candidate = y.chunk(4, -1)
            i, f, o = [torch.sigmoid(gate) for gate in gates]
            state = f * state + i * candidate.tanh()
            outs.append(o * state.tanh())
        return torch.stack(outs, 1)


class OneActivation(Fused):
    """Gate and what it gates from one helper."""

    rows = 2 * WIDTH

    def core(self, h: Tensor) -> Tensor:
        gate, up = [F.silu(x) if i == 0 else x for i, x in enumerate(self.fused(h).chunk(2, -1))]
        return gate * up


class TwoWays(Fused):
    """Halves that meet matrices of their own, in a loop over layers."""

    rows = 2 * WIDTH

    def more(self) -> None:
        self.ways = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))

    def core(self, h: Tensor) -> Tensor:
        one, other = [way(x) for way, x in zip(self.ways, self.fused(h).chunk(2, -1), strict=True)]
        return one + other


class OneWay(Fused):
    """Halves that meet the same matrix, side by side: nothing tells them apart."""

    rows = 2 * WIDTH

    def more(self) -> None:
        self.way = nn.Linear(WIDTH, WIDTH)

    def core(self, h: Tensor) -> Tensor:
        one, other = [self.way(x).relu() for x in self.fused(h).chunk(2, -1)]
        return one + other


class OneAfterTheOther(Fused):
    """Halves that meet the same matrix, the second with what came of the first."""

    rows = 2 * WIDTH

    def more(self) -> None:
        self.way = nn.Linear(WIDTH, WIDTH)

    def core(self, h: Tensor) -> Tensor:
        y = torch.zeros(BATCH, PLACES, WIDTH)
        for x in self.fused(h).chunk(2, -1):
            y = self.way(x + y).relu()
        return y


class TwoStreams(Fused):
    """Scale and shift of two streams with layers of their own, by one line."""

    rows = 4 * WIDTH

    def more(self) -> None:
        self.ways = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))

    def core(self, h: Tensor) -> Tensor:
        scales, shifts = self.fused(h.mean(1, keepdim=True)).view(BATCH, 1, 2, 2, WIDTH).unbind(2)
        normed = F.layer_norm(h, (WIDTH,))
        one, other = [way(normed * (1 + scales[:, :, i]) + shifts[:, :, i]) for i, way in enumerate(self.ways)]
        return one.relu() + other.relu()


class Mixture(Fused):
    """A gate's entries multiply the results of layers in a loop, the last one those of none."""

    rows = 4

    def more(self) -> None:
        self.ways = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def core(self, h: Tensor) -> Tensor:
        *gates, last = self.fused(h).softmax(-1).split(1, -1)
        return sum((gate * way(h) for gate, way in zip(gates, self.ways, strict=True)), last * h)


class Threshold(Fused):
    """An entry is compared, and a layer is left out where it is small: no gradient tells it from the others."""

    rows = WIDTH

    def more(self) -> None:
        self.way = nn.Linear(WIDTH, WIDTH)

    def core(self, h: Tensor) -> Tensor:
        y = self.fused(h)
        for _ in range(2):
            y = torch.where(y[..., :1] > 0.5, y, self.way(y))
        return y


class Levels(Fused):
    """A query, a context, and a gate for each of its levels, which are made one from the other (FocalNet)."""

    rows = 2 * WIDTH + 3

    def more(self) -> None:
        self.ways = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))

    def core(self, h: Tensor) -> Tensor:
        q, context, gates = self.fused(h).split([WIDTH, WIDTH, 3], -1)
        y = torch.zeros_like(q)
        for level, way in enumerate(self.ways):
            context = way(context).relu()
            y = y + context * gates[..., level : level + 1]
        return q * (y + context.mean(1, keepdim=True).relu() * gates[..., 2:])


EXPECTED: dict[type[Fused], str] = {
    Mixture: "",
    Threshold: "",
    Levels: "part 0 24, part 1 24, up 3",
    HeadLoop: "q 24, k 24, v 24",
    SummedHeadLoop: "q 24, k 24, v 24",
    WrittenHeadLoop: "q 24, k 24, v 24",
    InterleavedHeadLoop: "q ~24, k ~24, v ~24",
    OneKey: "q 24, k 6, v 6",
    Gates: "gate 0 24, gate 1 24, gate 2 24, gate 3 24",
    OneActivation: "gate 24, up 24",
    TwoWays: "part 0 24, part 1 24",
    OneWay: "",
    OneAfterTheOther: "part 0 24, part 1 24",
    TwoStreams: "part 0 24, part 1 24, part 2 24, part 3 24",
}


@pytest.mark.parametrize("model", EXPECTED)
def test_parts_of_loops(model: type[Fused]) -> None:
    assert blocks_of(model()) == EXPECTED[model]


class Halting(nn.Module):
    """Steps until what one entry of the state adds up to says enough; what is returned depends on it."""

    def __init__(self, own: bool, weighed: bool) -> None:
        super().__init__()
        self.stem, self.step, self.head = nn.Linear(8, 24), nn.Linear(24, 24), nn.Linear(24, 5)
        self.halt = nn.Linear(24, 1) if own else None
        self.weighed = weighed

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        halt, found = torch.zeros(h.shape[:-1]), torch.zeros_like(h)
        while (halt < 0.99).any():
            h = self.step(h).relu()
            share = torch.sigmoid(h[..., 0] if self.halt is None else self.halt(h)[..., 0])
            halt, found = halt + share, found + share[..., None] * h
        out: Tensor = self.head(found) if self.weighed else self.head(h) * halt[..., None]
        return out


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("weighed", [True, False])
def test_an_entry_that_tells_when_to_halt_is_no_part(own: bool, weighed: bool) -> None:
    plan = normc.plan(Halting(own, weighed), torch.randn(4, 6, 8))
    assert [row.name for row in plan.rows if row.blocks or row.fallback or row.role == "unused"] == []
