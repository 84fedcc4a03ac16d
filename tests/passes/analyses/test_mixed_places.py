"""A packed layer keeps its parts where places are mixed or picked between it and the split, by whatever weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.model.ops.net import Shapes, rows

T = 6
MIX, PICKS = torch.rand(T, T), torch.randint(0, T, (4, T, 3))
COLUMNS = torch.arange(48)


def glu(y: Tensor) -> Tensor:
    gate, up = y.chunk(2, -1)
    return gate.sigmoid() * up


def attention(y: Tensor) -> Tensor:
    return (y.detach() @ y.detach().mT).softmax(-1)


def messages(y: Tensor) -> Tensor:
    source, target = torch.tensor([0, 1, 2, 3, 4, 5, 0, 2]), torch.tensor([1, 2, 3, 4, 5, 0, 3, 5])
    return torch.zeros_like(y).index_add(1, target, y[:, source])


def scattered(y: Tensor) -> Tensor:
    return torch.zeros_like(y).scatter_add(1, PICKS[:, :, :1].expand(-1, -1, 48), y)


BETWEEN: dict[str, Callable[[Tensor], Tensor]] = {
    "matrix from the left": lambda y: MIX @ y,
    "bmm from the left": lambda y: torch.bmm(MIX.expand(4, -1, -1), y),
    "baddbmm": lambda y: torch.baddbmm(torch.ones(1), MIX.expand(4, -1, -1), y),
    "matrix from the right": lambda y: (y.mT @ MIX).mT,
    "linear over places": lambda y: F.linear(y.mT, MIX).mT,
    "einsum": lambda y: torch.einsum("ij,bjc->bic", MIX, y),
    "einsum of three": lambda y: torch.einsum("ij,jk,bkc->bic", MIX, MIX, y),
    "tensordot": lambda y: torch.tensordot(y, MIX, dims=([1], [0])).mT,
    "attention": lambda y: torch.bmm(attention(y), y),
    "attention in letters": lambda y: torch.einsum("bqk,bkc->bqc", attention(y), y),
    "sdpa": lambda y: F.scaled_dot_product_attention(y.detach(), y.detach(), y),
    "sdpa by head": lambda y: F.scaled_dot_product_attention(
        *(z.unflatten(-1, (4, 12)).transpose(1, 2) for z in (y.detach(), y.detach(), y))
    ).transpose(1, 2).flatten(2),
    "sparse": lambda y: torch.stack([torch.sparse.mm(MIX.to_sparse(), sample) for sample in y]),
    "gather": lambda y: y.gather(1, PICKS[:, :3, :1].expand(-1, -1, 48)).repeat(1, 2, 1),
    "take_along_dim": lambda y: torch.take_along_dim(y, PICKS[:, :, :1], 1),
    "index of two dimensions": lambda y: y[:, PICKS[0]].mean(2),
    "index_select": lambda y: y.index_select(1, PICKS[0, :, 0]),
    "two indices": lambda y: y[torch.arange(4)[:, None], PICKS[..., 0]],
    "indices apart": lambda y: y.unflatten(-1, (2, 24))[torch.arange(4), :, :, :][:, PICKS[0, :, 0]].flatten(2),
    "mask of samples and places": lambda y: y + y[torch.arange(24).view(4, 6) % 2 == 0].mean(0),
    "messages": messages,
    "scattered": scattered,
    "constant depthwise filter": lambda y: F.conv1d(y.mT, torch.ones(48, 1, 3) / 3, padding=1, groups=48).mT,
    "constant filter, channels as samples": lambda y: F.conv1d(
        y.mT.flatten(0, 1)[:, None], torch.ones(1, 1, 3), padding=1
    ).view(4, 48, T).mT,
    "unfold": lambda y: F.unfold(y.mT.unflatten(-1, (2, 3)), 3, padding=1).unflatten(1, (48, 9)).mean(2).mT,
    "windows": lambda y: F.pad(y.mT, (1, 1)).unfold(-1, 3, 1).mean(-1).mT,
    "repeated, then sliced": lambda y: y.repeat_interleave(3, 1)[:, 1:-1:2][:, :T],
    "columns repeated, then every second": lambda y: y.repeat_interleave(2, -1)[..., 1::2],
    "strided": lambda y: y.contiguous().as_strided((4, 3, 48), (6 * 48, 48, 1), 48).repeat(1, 2, 1),
    "columns by mask": lambda y: torch.cat([y[..., COLUMNS < 24], y[..., COLUMNS >= 24]], -1),
}  # fmt: skip


@pytest.mark.parametrize("between", BETWEEN.values(), ids=BETWEEN)
def test_parts_behind_mixed_places(between: Callable[[Tensor], Tensor]) -> None:
    found = rows({"w": (48, 24), "b": (48,)}, lambda net, h: glu(between(F.linear(h, net.w, net.b))))
    assert found == ["hidden oi spectral 24 24", "bias o rms 24 24"]


def linformer(net: Any, h: Tensor) -> Tensor:
    keys, values = (net.e @ (h @ net.w)).chunk(2, -1)
    return (h @ keys.mT).softmax(-1) @ values


LEARNED: dict[str, tuple[Shapes, Callable[[Any, Tensor], Tensor], str]] = {
    "Linformer": ({"e": (4, T)}, linformer, "hidden oi spectral"),
    "linear over places": ({"e": (T, T)}, lambda net, h: glu(F.linear((h @ net.w).mT, net.e).mT), "hidden oi spectral"),
    "from the left": ({"e": (T, T)}, lambda net, h: glu(net.e @ (h @ net.w)), "hidden oi spectral"),
    "einsum": (
        {"e": (T, T)},
        lambda net, h: glu(torch.einsum("ts,bsc->btc", net.e, h @ net.w)),
        "hidden oi spectral",
    ),
    "convolution over places as channels": (
        {"e": (T, T, 1)},
        lambda net, h: glu(F.conv1d(h @ net.w, net.e)),
        "hidden oik spectral",
    ),
}


@pytest.mark.parametrize("case", LEARNED.values(), ids=LEARNED)
def test_parts_behind_places_that_a_weight_mixes(case: tuple[Shapes, Callable[[Any, Tensor], Tensor], str]) -> None:
    shapes, forward, mixing = case
    assert rows({"w": (24, 48), **shapes}, forward) == ["hidden io spectral 24 24", mixing]


def test_features_that_are_summed_come_to_their_end() -> None:
    found = rows({"w": (24, 48)}, lambda net, h: glu(h @ net.w @ torch.rand(48, 48)))
    assert found == ["hidden io spectral"]
