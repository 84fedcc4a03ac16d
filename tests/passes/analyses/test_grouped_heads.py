"""Heads as blocks however attention is written: shared keys, groups, loops, heads among the samples."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
    rotated_in_pairs,
)


class Rotated(Fused):
    def core(self, h: Tensor) -> Tensor:
        q, k, v = self.thirds(h)
        return attend(rotated_in_pairs(q), F.normalize(rotated_in_pairs(k), dim=-1), v)


class RotatedTogether(Fused):
    def core(self, h: Tensor) -> Tensor:
        q, k, v = self.thirds(h)
        q, k = rotated_in_pairs(torch.cat((q, k), 1)).chunk(2, 1)
        return attend(q, k, v)


class Cached(Fused):
    def core(self, h: Tensor) -> Tensor:
        q, k, v = self.thirds(h)
        return kept_whole(q, *[torch.cat((torch.ones(BATCH, HEADS, 2, HEAD), x), 2) for x in (k, v)])


class Looped(Fused):
    def core(self, h: Tensor) -> Tensor:
        heads = zip(*(x.unbind(1) for x in self.thirds(h)), strict=True)
        return torch.cat([(q @ k.mT).softmax(-1) @ v for q, k, v in heads], -1)


class AmongSamples(Fused):
    def core(self, h: Tensor) -> Tensor:
        q, k, v = (x.reshape(BATCH * HEADS, PLACES, HEAD) for x in self.thirds(h))
        return torch.bmm(torch.bmm(q, k.mT).softmax(-1), v).view(BATCH, HEADS, PLACES, HEAD).transpose(1, 2).flatten(2)


class OneKey(Fused):
    """Heads that share a key and a value, by broadcasting."""

    rows = WIDTH + 2 * HEAD

    def core(self, h: Tensor) -> Tensor:
        q, k, v = self.fused(h).split([WIDTH, HEAD, HEAD], -1)
        return attend(by_head(q), k[:, None], v[:, None])


class OneKeyInEinsum(OneKey):
    """The same; the key has no axis of heads."""

    def core(self, h: Tensor) -> Tensor:
        q, k, v = self.fused(h).split([WIDTH, HEAD, HEAD], -1)
        weights = torch.einsum("bihd,bjd->bhij", q.unflatten(-1, (HEADS, HEAD)), k).softmax(-1)
        return torch.einsum("bhij,bjd->bihd", weights, v).flatten(2)


class OneKeyForAllRows(OneKey):
    """The same; heads and places are rows of one product."""

    def core(self, h: Tensor) -> Tensor:
        q, k, v = self.fused(h).split([WIDTH, HEAD, HEAD], -1)
        return ((q.reshape(BATCH, PLACES * HEADS, HEAD) @ k.mT).softmax(-1) @ v).view(BATCH, PLACES, WIDTH)


class Groups(Fused):
    """Two heads share a key, which is repeated for them."""

    rows = WIDTH + 4 * HEAD

    def split(self, h: Tensor) -> list[Tensor]:
        """Queries by head, keys and values by group."""
        return [by_head(part) for part in self.fused(h).split([WIDTH, 2 * HEAD, 2 * HEAD], -1)]

    def core(self, h: Tensor) -> Tensor:
        q, k, v = self.split(h)
        return attend(q, *[x[:, :, None].expand(-1, -1, 2, -1, -1).flatten(1, 2) for x in (k, v)])


class GroupsKeptWhole(Groups):
    def core(self, h: Tensor) -> Tensor:
        q, k, v = self.split(h)
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2).flatten(2)


class GroupsInEinsum(Groups):
    def core(self, h: Tensor) -> Tensor:
        q, k, v = self.split(h)
        weights = torch.einsum("bgrid,bgjd->bgrij", q.unflatten(1, (2, 2)), k).softmax(-1)
        return torch.einsum("bgrij,bgjd->bigrd", weights, v).flatten(2)


class GroupsAsRows(Groups):
    """Heads of a group as more rows of one product."""

    def core(self, h: Tensor) -> Tensor:
        q, k, v = self.split(h)
        y = (q.reshape(BATCH, 2, 2 * PLACES, HEAD) @ k.mT).softmax(-1) @ v
        return y.view(BATCH, HEADS, PLACES, HEAD).transpose(1, 2).flatten(2)


class GroupsLooped(Groups):
    def core(self, h: Tensor) -> Tensor:
        q, k, v = self.split(h)
        return torch.cat([(q[:, i] @ k[:, i // 2].mT).softmax(-1) @ v[:, i // 2] for i in range(HEADS)], -1)


class RowsByGroup(Groups):
    """Rows [q q k v | q q k v]."""

    def split(self, h: Tensor) -> list[Tensor]:
        parts = self.fused(h).unflatten(-1, (2, 4, HEAD)).split([2, 1, 1], -2)
        return [part.flatten(2, 3).transpose(1, 2) for part in parts]


class RowsByGroupKeptWhole(RowsByGroup, GroupsKeptWhole):
    pass


class RowsByGroupInEinsum(RowsByGroup, GroupsInEinsum):
    pass


class RowsByGroupAsRows(RowsByGroup, GroupsAsRows):
    pass


def heads(**counts: int) -> str:
    """What every head a block looks like."""
    return ", ".join(f"{part} head {i} {HEAD}" for part, count in counts.items() for i in range(count))


EXPECTED: dict[type[Fused], str] = {
    **dict.fromkeys((Rotated, RotatedTogether, Cached, Looped, AmongSamples), heads(q=4, k=4, v=4)),
    **dict.fromkeys((OneKey, OneKeyInEinsum, OneKeyForAllRows), heads(q=4) + ", k 6, v 6"),
    **dict.fromkeys((Groups, GroupsKeptWhole, GroupsInEinsum, GroupsAsRows, GroupsLooped), heads(q=4, k=2, v=2)),
    **dict.fromkeys((RowsByGroup, RowsByGroupKeptWhole, RowsByGroupInEinsum, RowsByGroupAsRows), heads(q=4, k=2, v=2)),
}


@pytest.mark.parametrize("model", EXPECTED)
def test_every_head_is_a_block(model: type[Fused]) -> None:
    assert blocks_of(model(), heads=True) == EXPECTED[model]


class Latent(nn.Module):
    """Keys of which one part is every head's own and one is common to all, beside values of another width (MLA)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.query, self.down = nn.Linear(20, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 10)
        self.up, self.head = nn.Linear(8, HEADS * 10), nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        latent, common = self.down(h).split([8, 2], -1)
        k, v = self.up(latent).unflatten(-1, (HEADS, 10)).transpose(1, 2).split([4, HEAD], -1)
        k = torch.cat((k, common[:, None].expand(-1, HEADS, -1, -1)), -1)
        out: Tensor = self.head(attend(by_head(self.query(h)), k, v))
        return out


def test_keys_that_are_put_together_of_two_layers_have_heads() -> None:
    assert blocks_of(Latent(), "up.weight") == "k ~16, v ~24"
    found = [f"{part} head {i} {size}" for part, size in (("k", 4), ("v", 6)) for i in range(HEADS)]
    assert blocks_of(Latent(), "up.weight", heads=True) == ", ".join(found)
    assert blocks_of(Latent(), "down.weight", heads=True) == "part 0 8, k 2"
