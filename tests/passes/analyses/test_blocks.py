"""Parts of an output are told apart by what they meet, never by the line of source that sends them there."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import normc
from tests.passes.analyses.fused import (
    BATCH,
    HEAD,
    HEADS,
    PLACES,
    WIDTH,
    Fused,
    attend,
    blocks_of,
    by_head,
    kept_whole,
    rotated,
    rotated_in_pairs,
)

THIRDS = "q 24, k 24, v 24"


class Memory(Fused):
    """Learned keys and values before the others, put there on one line."""

    def more(self) -> None:
        self.memory = nn.Parameter(torch.randn(2, HEADS, 3, HEAD))

    def core(self, h: Tensor) -> Tensor:
        q, k, v = self.thirds(h)
        m, n = (x.expand(BATCH, -1, -1, -1) for x in self.memory)
        k, v = torch.cat((m, k), -2), torch.cat((n, v), -2)
        return attend(q, k, v)


class MemoryBeforeHeads(Fused):
    """The same before the heads are split, in a list comprehension."""

    def more(self) -> None:
        self.memory = nn.Parameter(torch.randn(2, 3, WIDTH))

    def core(self, h: Tensor) -> Tensor:
        q, k, v = self.fused(h).chunk(3, -1)
        k, v = [torch.cat((m.expand(BATCH, -1, -1), x), -2) for m, x in zip(self.memory, (k, v), strict=True)]
        return attend(*map(by_head, (q, k, v)))


class Cache(Fused):
    """Keys and values behind those of a cache."""

    def core(self, h: Tensor) -> Tensor:
        q, k, v = self.thirds(h)
        past = torch.ones(2, BATCH, HEADS, 5, HEAD)
        k, v = torch.cat((past[0], k), 2), torch.cat((past[1], v), 2)
        return kept_whole(q, k, v)


class StackedCache(Fused):
    """Keys and values as one tensor behind the cache."""

    def core(self, h: Tensor) -> Tensor:
        q, k, v = self.thirds(h)
        k, v = torch.cat((torch.ones(2, BATCH, HEADS, 5, HEAD), torch.stack((k, v))), 3).unbind(0)
        return attend(q, k, v)


class StaticCache(Fused):
    """Keys and values written into a cache of fixed length, in a loop."""

    def core(self, h: Tensor) -> Tensor:
        q, *both = self.thirds(h)
        k, v = [torch.zeros(BATCH, HEADS, 16, HEAD).index_copy(2, torch.arange(PLACES), x) for x in both]
        return attend(q, k, v)


class WrittenCache(Fused):
    """The same through a slice that is assigned."""

    def core(self, h: Tensor) -> Tensor:
        q, *both = self.thirds(h)
        kept = []
        for x in both:
            cache = torch.zeros(BATCH, HEADS, 16, HEAD)
            cache[:, :, 3 : 3 + PLACES] = x
            kept.append(cache)
        return attend(q, *kept)


class Context(Fused):
    """Keys and values of two sequences, each with a fused layer of its own, put together on one line."""

    def more(self) -> None:
        self.other = nn.Linear(WIDTH, 2 * WIDTH)

    def core(self, h: Tensor) -> Tensor:
        q, k, v = self.fused(h).chunk(3, -1)
        k, v = [by_head(torch.cat(pair, 1)) for pair in zip(self.other(h[:, :4]).chunk(2, -1), (k, v), strict=True)]
        return attend(by_head(q), k, v)


class Joint(Fused):
    """Two streams attend as one sequence."""

    def more(self) -> None:
        self.other = nn.Linear(WIDTH, self.rows)

    def core(self, h: Tensor) -> Tensor:
        other = [by_head(part) for part in self.other(h[:, :4]).chunk(3, -1)]
        q, k, v = [torch.cat(pair, 2) for pair in zip(self.thirds(h), other, strict=True)]
        return attend(q, k, v)[:, :PLACES]


class OneHelper(Fused):
    """Every part goes through the same lines: a norm, rotary position, a scale."""

    def more(self) -> None:
        self.norm = nn.LayerNorm(HEAD)

    def ready(self, x: Tensor) -> Tensor:
        return F.normalize(rotated(self.norm(x)), dim=-1)

    def core(self, h: Tensor) -> Tensor:
        return attend(*[self.ready(x) for x in self.thirds(h)])


class RotatedTogether(Fused):
    """Queries and keys are put beside each other to be rotated at once."""

    def core(self, h: Tensor) -> Tensor:
        q, k, v = self.thirds(h)
        q, k = rotated_in_pairs(torch.cat((q, k), 1)).chunk(2, 1)
        return attend(q, k, v)


EXPECTED: dict[type[Fused], str] = {
    Memory: THIRDS,
    MemoryBeforeHeads: THIRDS,
    Cache: THIRDS,
    StackedCache: THIRDS,
    StaticCache: THIRDS,
    WrittenCache: THIRDS,
    Context: THIRDS,
    Joint: THIRDS,
    OneHelper: THIRDS,
    RotatedTogether: THIRDS,
}


@pytest.mark.parametrize("model", EXPECTED)
def test_parts_are_told_apart_by_what_they_meet(model: type[Fused]) -> None:
    assert blocks_of(model()) == EXPECTED[model]


@pytest.mark.parametrize("model", [Context, Joint])
def test_both_layers_that_are_put_together_have_parts(model: type[Fused]) -> None:
    assert blocks_of(model(), "other.weight") == {Context: "k 24, v 24", Joint: THIRDS}[model]


class Library(nn.Module):
    """The library's own attention, of which no line is seen."""

    def __init__(self, weights: bool, **options: bool) -> None:
        super().__init__()
        self.weights = weights
        self.stem, self.head = nn.Linear(20, WIDTH), nn.Linear(WIDTH, 5)
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, **options)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        out: Tensor = self.head(self.attn(h, h, h, need_weights=self.weights)[0])
        return out


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("zero", [True, False])
def test_parts_of_the_librarys_attention(weights: bool, bias: bool, zero: bool) -> None:
    model = Library(weights, add_bias_kv=bias, add_zero_attn=zero)
    assert blocks_of(model, "attn.in_proj_weight") == THIRDS
    assert blocks_of(model, "attn.in_proj_bias") == THIRDS


class Windowed(nn.Module):
    """CoaT's attention: the values meet the keys, and their channels go through depthwise filters of two windows."""

    def __init__(self, kept: bool) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(12, 36), nn.Linear(12, 3)
        self.narrow, self.wide = (nn.Conv1d(n, n, k, padding=k // 2, groups=n) for n, k in ((4, 3), (8, 5)))
        self.kept = kept

    def forward(self, x: Tensor) -> Tensor:
        """x: [2, 7, 12]."""
        q, k, v = self.qkv(x).chunk(3, -1)
        places = v.mT
        near = torch.cat([self.narrow(places[:, :4]), self.wide(places[:, 4:])], 1).mT
        mixed = q @ (k.softmax(1).mT @ v) if self.kept else q * k.softmax(1)
        return self.out(mixed + q * near)


def test_values_are_one_part_whatever_windows_their_channels_go_through_besides() -> None:
    blocks = normc.plan(Windowed(kept=True), torch.randn(2, 7, 12))["qkv.weight"].blocks
    assert [(block.spans, block.size) for block in blocks] == [(((0, 12),), 12), (((12, 24),), 12), (((24, 36),), 12)]


def test_channels_that_filters_alone_take_are_parts() -> None:
    blocks = normc.plan(Windowed(kept=False), torch.randn(2, 7, 12))["qkv.weight"].blocks
    assert [block.size for block in blocks] == [12, 12, 4, 8]
