"""Ones and noughts that choose rows of a table look it up, whoever made them; shares mix, and are a product."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.model.ops.net import Around, Forward, rows

LABELS = torch.tensor([3, 1, 4, 1])


def hot(labels: Tensor) -> Tensor:
    return F.one_hot(labels, 5).float()


def nearest(h: Tensor, table: Tensor) -> Tensor:
    return torch.cdist(h, table[None].expand(len(h), -1, -1)).argmin(-1)


def straight(q: Tensor, h: Tensor) -> Tensor:
    return h + (q - h).detach() + (q - h.detach()).square().mean()


@pytest.mark.parametrize(
    ("shape", "forward", "expected"),
    [
        ((5, 24), lambda net, h, t: h + (hot(t) @ net.w)[:, None], "embedding xo colnorm"),
        ((24, 5), lambda net, h, t: h + F.linear(hot(t), net.w)[:, None], "embedding ox colnorm"),
        ((5, 24), lambda net, h, t: h + torch.einsum("bv,vd->bd", hot(t), net.w)[:, None], "embedding xo colnorm"),
        ((5, 24), lambda net, h, t: h + (torch.eye(5)[t] @ net.w)[:, None], "embedding xo colnorm"),
        (
            (5, 24),
            lambda net, h, t: h + ((t[:, None] == torch.arange(5)).float() @ net.w)[:, None],
            "embedding xo colnorm",
        ),
        (
            (5, 24),
            lambda net, h, t: h + (torch.zeros(len(t), 5).scatter_(1, t[:, None], 1.0) @ net.w)[:, None],
            "embedding xo colnorm",
        ),
        ((6, 24), lambda net, h, t: h + torch.eye(6) @ net.w, "position xo colnorm"),
    ],
)
def test_a_one_hot_product_is_a_lookup(shape: tuple[int, ...], forward: Forward, expected: str) -> None:
    assert rows({"w": shape}, forward, LABELS) == [expected]


@pytest.mark.parametrize(
    "forward",
    [
        lambda net, h: straight(F.one_hot(nearest(h, net.w), 32).float() @ net.w, h),
        lambda net, h: F.one_hot((h @ net.w.T).argmax(-1), 32).float() @ net.w,
        lambda net, h: straight(net.w[nearest(h, net.w)], h),
        lambda net, h: net.w[nearest(h, net.w)],
        lambda net, h: F.embedding(nearest(h, net.w), net.w),
        lambda net, h: F.gumbel_softmax(torch.cdist(h.mean(1), net.w), hard=True).detach() @ net.w,
    ],
)
def test_a_codebook_is_looked_up(forward: Forward) -> None:
    assert rows({"w": (32, 24)}, forward) == ["embedding xo colnorm"]


def test_codebooks_of_several_heads_are_blocks() -> None:
    def quantised(net: Around, h: Tensor) -> Tensor:
        heads = h.unflatten(-1, (2, 12)).permute(2, 0, 1, 3)
        chosen = F.one_hot(torch.cdist(heads.flatten(1, 2), net.w).argmin(-1), 16).float().unflatten(1, (4, 6))
        return torch.einsum("hbnc,hcd->bnhd", chosen, net.w).flatten(2)

    assert rows({"w": (2, 16, 12)}, quantised) == ["embedding bxo colnorm"]


@pytest.mark.parametrize("soft", [lambda h: h.softmax(-1), lambda h: F.gumbel_softmax(h)])
def test_shares_of_vectors_are_a_product(soft: Forward) -> None:
    found = rows({"k": (24, 16), "v": (16, 24)}, lambda net, h: soft(h @ net.k) @ net.v)
    assert found == ["hidden io spectral", "hidden io spectral"]
