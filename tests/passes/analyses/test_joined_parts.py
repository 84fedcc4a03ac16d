"""Parts that are put beside each other, go through something channel by channel and are split again stay themselves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.passes.analyses.fused import BATCH, HEAD, HEADS, PLACES, WIDTH, Fused, attend, blocks_of, by_head

THIRDS = "q 24, k 24, v 24"


class Rejoined(Fused):
    """q, k, v and a gate; the three go through `between` as one tensor."""

    rows = 4 * WIDTH

    def more(self) -> None:
        self.conv = nn.Conv1d(3 * WIDTH, 3 * WIDTH, 3, groups=3 * WIDTH, padding=1)
        self.norm = nn.LayerNorm(3 * WIDTH)

    def between(self, y: Tensor) -> Tensor:
        """[batch, places, 3 * width] to the same."""
        return y

    def core(self, h: Tensor) -> Tensor:
        y, z = self.fused(h).split([3 * WIDTH, WIDTH], -1)
        v, k, q = self.between(torch.cat(y.chunk(3, -1)[::-1], -1)).chunk(3, -1)
        return attend(*map(by_head, (q, k, v))) * F.silu(z)


class Convolved(Rejoined):
    def between(self, y: Tensor) -> Tensor:
        return F.silu(self.conv(y.mT)).mT


class PaddedAndConvolved(Rejoined):
    def between(self, y: Tensor) -> Tensor:
        return F.conv1d(F.pad(y.mT, (2, 0)), self.conv.weight, groups=3 * WIDTH).mT


class Normed(Rejoined):
    def between(self, y: Tensor) -> Tensor:
        return self.norm(y)


class Added(Rejoined):
    def between(self, y: Tensor) -> Tensor:
        return y + y.sigmoid() * 0.5


class SeenByHead(Rejoined):
    def between(self, y: Tensor) -> Tensor:
        return F.normalize(y.unflatten(-1, (3 * HEADS, HEAD)), dim=-1).flatten(2)


class PutBackInOrder(Rejoined):
    def between(self, y: Tensor) -> Tensor:
        halves = y.chunk(2, -1)
        return torch.cat((halves[0].tanh(), halves[1].tanh()), -1)


REJOINED: tuple[type[Rejoined], ...] = (
    Rejoined, Convolved, PaddedAndConvolved, Normed, Added, SeenByHead, PutBackInOrder,
)  # fmt: skip


@pytest.mark.parametrize("model", REJOINED)
def test_sections(model: type[Rejoined]) -> None:
    assert blocks_of(model()) == "q 24, k 24, v 24, gate 24"


class Interleaved(Rejoined):
    """The same with the rows of each head beside each other, as Qwen3-Next has them."""

    def core(self, h: Tensor) -> Tensor:
        parts = self.fused(h).unflatten(-1, (HEADS, 4 * HEAD)).chunk(4, -1)
        q, k, v, z = (part.flatten(2) for part in parts)
        q, k, v = self.between(torch.cat((q, k, v), -1)).chunk(3, -1)
        return attend(*map(by_head, (q, k, v))) * F.silu(z)


@pytest.mark.parametrize("between", [model.between for model in REJOINED])
def test_rows_by_head(between: Callable[[Rejoined, Tensor], Tensor]) -> None:
    model = type("Between", (Interleaved,), {"between": between})()
    assert blocks_of(model) == "q ~24, k ~24, v ~24, gate ~24"


class Unequal(Rejoined):
    """Keys of fewer heads than values, and of other widths: no factor is common to all."""

    rows = 2 * 8 + 3 * 6 + 4

    def more(self) -> None:
        self.conv, self.out = nn.Conv1d(34, 34, 3, groups=34, padding=1), nn.Linear(18, WIDTH)

    def core(self, h: Tensor) -> Tensor:
        rows, rest = self.fused(h).split([34, 4], -1)
        qk, v = rows.split([16, 18], -1)
        q, k = (part.flatten(2) for part in qk.unflatten(-1, (2, 2, 4)).unbind(-2))
        y = self.conv(torch.cat((q, k, v), -1).mT).mT
        q, k, v = y.split([8, 8, 18], -1)
        return self.out((q @ k.mT).softmax(-1) @ v) * rest.mean(-1, keepdim=True).sigmoid()


def test_parts_of_unequal_widths() -> None:
    assert blocks_of(Unequal()) == "q ~8, k ~8, v 18, gate 4"


class Stacked(Fused):
    """Parts of interleaved rows, stacked, activated, unbound."""

    def core(self, h: Tensor) -> Tensor:
        parts = self.fused(h).unflatten(-1, (HEADS, 3 * HEAD)).chunk(3, -1)
        return attend(*torch.stack(parts).tanh().transpose(2, 3).unbind(0))


class Filtered(Fused):
    """A filter for every channel of a head, heads among the samples."""

    multiple = 1

    def more(self) -> None:
        self.conv = nn.Conv1d(HEAD, HEAD * self.multiple, 3, groups=HEAD, padding=1)

    def filtered(self, x: Tensor) -> Tensor:
        """[batch, heads, places, width] to the same, by one helper for all."""
        y: Tensor = self.conv(x.reshape(BATCH * HEADS, -1, HEAD).mT)
        return y.mT.reshape(BATCH, HEADS, -1, HEAD * self.multiple)

    def core(self, h: Tensor) -> Tensor:
        return attend(*[self.filtered(x) for x in self.thirds(h)])


class FilteredTwice(Filtered):
    """Two filters a channel."""

    multiple = 2

    def core(self, h: Tensor) -> Tensor:
        q, k, v = self.thirds(h)
        return attend(self.filtered(q), self.filtered(k), v)


class FilteredButFirst(Filtered):
    """A class token stays out, as in MViT."""

    def filtered(self, x: Tensor) -> Tensor:
        return torch.cat((x[:, :, :1], super().filtered(x[:, :, 1:])), 2)


class FilteredPlanes(Filtered):
    """Planes instead of lines, a norm behind."""

    def more(self) -> None:
        self.planes, self.norm = nn.Conv2d(HEAD, HEAD, 3, groups=HEAD, padding=1), nn.LayerNorm(HEAD)

    def filtered(self, x: Tensor) -> Tensor:
        y = self.planes(x.reshape(BATCH * HEADS, 3, 3, HEAD).permute(0, 3, 1, 2))
        return self.norm(y.reshape(BATCH, HEADS, HEAD, PLACES).mT)


class Pooled(Filtered):
    """Pooling instead."""

    def filtered(self, x: Tensor) -> Tensor:
        return F.max_pool1d(x.reshape(BATCH * HEADS, -1, HEAD).mT, 3, 1, 1).mT.reshape(BATCH, HEADS, -1, HEAD)


@pytest.mark.parametrize("model", [Filtered, FilteredTwice, FilteredButFirst, FilteredPlanes, Pooled])
def test_filters_of_heads(model: type[Fused]) -> None:
    assert blocks_of(model()) == THIRDS


def test_stacked_parts() -> None:
    assert blocks_of(Stacked()) == "q ~24, k ~24, v ~24"
