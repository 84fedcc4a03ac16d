"""Biases and gains beside a fused matrix have its blocks, entry for entry."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import normc
from tests.passes.analyses.fused import BATCH, HEAD, HEADS, PLACES, WIDTH, Fused, attend, blocks_of, by_head

THIRDS = "q 24, k 24, v 24"


class NormOfAll(Fused):
    """One norm over all of the output."""

    def more(self) -> None:
        self.norm = nn.LayerNorm(3 * WIDTH)

    def core(self, h: Tensor) -> Tensor:
        return attend(*map(by_head, self.norm(self.fused(h)).chunk(3, -1)))


class ScaleOfAll(Fused):
    """A scale and a shift written out."""

    def more(self) -> None:
        self.scale, self.shift = nn.Parameter(torch.ones(3 * WIDTH)), nn.Parameter(torch.zeros(3 * WIDTH))

    def core(self, h: Tensor) -> Tensor:
        return attend(*map(by_head, (self.fused(h) * self.scale + self.shift).chunk(3, -1)))


class ScaleByPart(Fused):
    """A scale of shape (3, width)."""

    def more(self) -> None:
        self.scale = nn.Parameter(torch.ones(3, WIDTH))

    def core(self, h: Tensor) -> Tensor:
        return attend(*map(by_head, (self.fused(h).unflatten(-1, (3, WIDTH)) * self.scale).unbind(-2)))


class ScaleOfHalf(Fused):
    """A norm over queries and keys alone, put beside each other."""

    def more(self) -> None:
        self.norm = nn.LayerNorm(2 * WIDTH)

    def core(self, h: Tensor) -> Tensor:
        q, k, v = self.fused(h).chunk(3, -1)
        q, k = self.norm(torch.cat((k, q), -1)).chunk(2, -1)[::-1]
        return attend(*map(by_head, (q, k, v)))


class ScaleOfQueries(Fused):
    """A scale of the queries alone, and one of each head: neither has parts."""

    def more(self) -> None:
        self.scale, self.each = nn.Parameter(torch.ones(WIDTH)), nn.Parameter(torch.ones(HEADS, 1, 1))

    def core(self, h: Tensor) -> Tensor:
        q, k, v = self.fused(h).chunk(3, -1)
        return attend(by_head(q * self.scale) * self.each, by_head(k), by_head(v))


class ByHead(Fused):
    """Rows by head, a shift of that form for all, and one for the queries (DeBERTa)."""

    def more(self) -> None:
        self.shift, self.queries = nn.Parameter(torch.zeros(3 * WIDTH)), nn.Parameter(torch.zeros(WIDTH))

    def core(self, h: Tensor) -> Tensor:
        y = self.fused(h).unflatten(-1, (HEADS, 3, HEAD)) + self.shift.view(HEADS, 3, HEAD)
        q, k, v = y.transpose(1, 2).unbind(-2)
        return attend(q + self.queries.view(HEADS, 1, HEAD), k, v)


class ByEntry(Fused):
    """Queries, keys and values in turn, entry by entry."""

    def more(self) -> None:
        self.shift = nn.Parameter(torch.zeros(3 * WIDTH))

    def core(self, h: Tensor) -> Tensor:
        y = (self.fused(h) + self.shift).unflatten(-1, (WIDTH, 3))
        return attend(*map(by_head, y.unbind(-1)))


class Planes(Fused):
    """A fused convolution behind which stands a batch norm."""

    def more(self) -> None:
        self.conv, self.norm = nn.Conv1d(WIDTH, 2 * WIDTH, 1), nn.BatchNorm1d(2 * WIDTH)

    def core(self, h: Tensor) -> Tensor:
        gate, up = self.norm(self.conv(h.mT)).chunk(2, 1)
        return (gate.sigmoid() * up).mT


EXPECTED: dict[tuple[type[Fused], str], str] = {
    (NormOfAll, "fused.bias"): THIRDS,
    (NormOfAll, "norm.weight"): THIRDS,
    (NormOfAll, "norm.bias"): THIRDS,
    (ScaleOfAll, "scale"): THIRDS,
    (ScaleOfAll, "shift"): THIRDS,
    (ScaleByPart, "scale"): "q 1, k 1, v 1",
    (ScaleOfHalf, "norm.weight"): "k 24, q 24",
    (ScaleOfQueries, "scale"): "",
    (ScaleOfQueries, "each"): "",
    (ByHead, "fused.bias"): "q ~24, k ~24, v ~24",
    (ByHead, "shift"): "q ~24, k ~24, v ~24",
    (ByHead, "queries"): "",
    (ByEntry, "shift"): "q ~24, k ~24, v ~24",
    (Planes, "conv.bias"): "gate 24, up 24",
    (Planes, "norm.weight"): "gate 24, up 24",
    (Planes, "norm.bias"): "gate 24, up 24",
}


@pytest.mark.parametrize(("model", "row"), EXPECTED)
def test_vectors_have_the_blocks_of_the_matrix(model: type[Fused], row: str) -> None:
    assert blocks_of(model(), row) == EXPECTED[model, row]


class OtherKeys(nn.Module):
    """The library's attention with matrices for keys and values of other widths: three of them, and one bias."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(20, WIDTH), nn.Linear(WIDTH, 5)
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, kdim=10, vdim=14, batch_first=True)

    def forward(self, x: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out: Tensor = self.head(self.attn(self.stem(x), k, v)[0])
        return out


class OwnMatrices(nn.Module):
    """Three matrices and one bias, cut by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head, self.bias = nn.Linear(20, WIDTH), nn.Linear(WIDTH, 5), nn.Parameter(torch.zeros(60))
        self.wide = nn.Linear(WIDTH, WIDTH, bias=False)
        self.slim = nn.ModuleList(nn.Linear(WIDTH, 18, bias=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        y = F.silu(self.wide(h) + self.bias[36:])
        one, other = (layer(h) + self.bias[start : start + 18] for layer, start in zip(self.slim, (0, 18), strict=True))
        out: Tensor = self.head(y * (one * other).mean(-1, keepdim=True))
        return out


def test_one_bias_of_three_matrices_has_a_block_for_each() -> None:
    inputs = torch.randn(BATCH, PLACES, 20), torch.randn(BATCH, 11, 10), torch.randn(BATCH, 11, 14)
    row = normc.plan(OtherKeys(), inputs)["attn.in_proj_bias"]
    assert [(block.label, block.spans) for block in row.blocks] == [
        ("q", ((0, 24),)), ("k", ((24, 48),)), ("v", ((48, 72),)),
    ]  # fmt: skip
    blocks = normc.plan(OwnMatrices(), torch.randn(BATCH, PLACES, 20))["bias"].blocks
    assert [block.spans for block in blocks] == [((0, 18),), ((18, 36),), ((36, 60),)]


class Wide(nn.Module):
    """Queries, keys and values of each head in turn, at the width of GPT-NeoX 20B."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fused, self.head = nn.Linear(20, 48), nn.Linear(48, 3 * 6144), nn.Linear(6144, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.fused(self.stem(x)).unflatten(-1, (64, 3, 96)).transpose(1, 2)
        out: Tensor = self.head(attend(*h.unbind(-2)))
        return out


def test_a_wide_bias_has_the_blocks_of_its_matrix() -> None:
    with torch.device("meta"):
        plan = normc.plan(Wide(), torch.randn(BATCH, PLACES, 20))
    matrix, bias = plan["fused.weight"].blocks, plan["fused.bias"].blocks
    assert [(block.label, len(block.spans)) for block in bias] == [("q", 64), ("k", 64), ("v", 64)]
    assert [block.spans for block in bias] == [block.spans for block in matrix]
