"""One matrix of a stack, chosen and then contracted: in every spelling the chosen axis is one of blocks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.model.ops.net import Around, Forward, Shapes, planned, rows

KINDS = torch.tensor([3, 1, 4, 1])
STACK: Shapes = {"w": (5, 24, 24)}
FILTERS: Shapes = {"k": (4, 24, 24, 3)}
BLOCKS = "hidden bio spectral"
FIXED = [0, 1, 4, 0]


def hot(kinds: Tensor) -> Tensor:
    return F.one_hot(kinds, 5).float()


def shares(h: Tensor, count: int = 5) -> Tensor:
    """One softmax a sample."""
    return h.mean(1)[:, :count].softmax(-1)


def best(h: Tensor) -> tuple[Tensor, Tensor]:
    """Shares and numbers of two matrices for every place."""
    found = h[..., :5].softmax(-1).topk(2, -1)
    return found.values, found.indices


def sparse(h: Tensor, w: Tensor) -> Tensor:
    values, indices = best(h)
    return torch.einsum("btk,btko->bto", values, torch.einsum("btc,btkco->btko", h, w[indices]))


def mixed_first(h: Tensor, w: Tensor) -> Tensor:
    values, indices = best(h)
    return torch.einsum("btc,btco->bto", h, torch.einsum("btk,btkco->btco", values, w[indices]))


def scattered(h: Tensor, w: Tensor) -> Tensor:
    values, indices = best(h)
    return torch.einsum("bte,eco,btc->bto", torch.zeros_like(h[..., :5]).scatter(-1, indices, values), w, h)


def gated(both: Tensor) -> Tensor:
    gate, up = both.chunk(2, -1)
    return F.silu(gate) * up


CHOSEN: dict[str, Forward] = {
    "by an index": lambda net, h, t: torch.bmm(h, net.w[t]),
    "by an index, einsum": lambda net, h, t: torch.einsum("btc,bco->bto", h, net.w[t]),
    "index_select": lambda net, h, t: h @ net.w.index_select(0, t),
    "gather": lambda net, h, t: torch.bmm(h, net.w.gather(0, t.view(-1, 1, 1).expand(-1, 24, 24))),
    "take_along_dim": lambda net, h, t: torch.bmm(h, torch.take_along_dim(net.w, t.view(-1, 1, 1), 0)),
    "an embedding of flat matrices": lambda net, h, t: h @ F.embedding(t, net.w.flatten(1)).view(-1, 24, 24),
    "product and sum": lambda net, h, t: (h[..., None] * net.w[t][:, None]).sum(-2),
    "for every edge": lambda net, h, t: torch.bmm(h.reshape(-1, 1, 24), net.w[t.repeat(6)]).view(4, 6, 24),
    "normalised": lambda net, h, t: torch.bmm(h, F.normalize(net.w[t], dim=1)),
    "by a fixed index": lambda net, h, t: torch.bmm(h, net.w[FIXED]),
    "by a fixed index, index_select": lambda net, h, t: torch.bmm(h, net.w.index_select(0, torch.tensor(FIXED))),
    "by a number": lambda net, h, t: h @ net.w[3] + h.tanh() @ net.w[1],
    "one-hot, einsum of three": lambda net, h, t: torch.einsum("be,eco,btc->bto", hot(t), net.w, h),
    "one-hot, einsum of two": lambda net, h, t: torch.bmm(h, torch.einsum("be,eco->bco", hot(t), net.w)),
    "one-hot, flat": lambda net, h, t: torch.bmm(h, (hot(t) @ net.w.view(5, -1)).view(-1, 24, 24)),
    "one-hot, tensordot": lambda net, h, t: torch.bmm(h, torch.tensordot(hot(t), net.w, dims=1)),
    "one-hot, product and sum": lambda net, h, t: torch.bmm(h, (hot(t)[:, :, None, None] * net.w).sum(1)),
    "fixed one-hot": lambda net, h, t: torch.einsum("be,eco,btc->bto", hot(torch.tensor(FIXED)), net.w, h),
    "shares, einsum of three": lambda net, h, t: torch.einsum("bte,eco,btc->bto", h[..., :5].softmax(-1), net.w, h),
    "shares, einsum of two": lambda net, h, t: torch.bmm(h, torch.einsum("be,eco->bco", shares(h), net.w)),
    "shares, flat": lambda net, h, t: torch.bmm(h, (shares(h) @ net.w.flatten(1)).view(-1, 24, 24)),
    "shares, product and sum": lambda net, h, t: torch.bmm(h, (shares(h)[:, :, None, None] * net.w).sum(1)),
    "shares, a loop": lambda net, h, t: torch.bmm(h, sum(shares(h)[:, i, None, None] * net.w[i] for i in range(5))),
    "results of shares": lambda net, h, t: torch.einsum(
        "bte,bteo->bto", h[..., :5].softmax(-1), torch.einsum("btc,eco->bteo", h, net.w)
    ),
    "results times shares, summed": lambda net, h, t: (
        h[..., :5].softmax(-1)[..., None] * torch.einsum("btc,eco->bteo", h, net.w)
    ).sum(2),
    "results of one": lambda net, h, t: torch.einsum("be,beto->bto", hot(t), torch.einsum("btc,eco->beto", h, net.w)),
    "a router's best": lambda net, h, t: torch.bmm(h, net.w[h.mean(1)[:, :5].argmax(-1)]),
    "a router's best two": lambda net, h, t: sparse(h, net.w),
    "a router's best two, mixed first": lambda net, h, t: mixed_first(h, net.w),
    "a router's shares in noughts": lambda net, h, t: scattered(h, net.w),
}


@pytest.mark.parametrize("name", CHOSEN)
def test_the_chosen_axis_is_one_of_blocks(name: str) -> None:
    assert rows(STACK, CHOSEN[name], KINDS) == [BLOCKS]


@pytest.mark.parametrize(
    ("shapes", "forward", "expected"),
    [
        ({"w": (24, 24, 5)}, lambda net, h, t: torch.einsum("btc,cob->bto", h, net.w[..., t]), ["hidden iob spectral"]),
        ({"w": (24, 5, 24)}, lambda net, h, t: torch.einsum("btc,cbo->bto", h, net.w[:, t]), ["hidden ibo spectral"]),
        ({"w": (3, 4, 24, 24)}, lambda net, h, t: torch.bmm(h, net.w[t % 3, t % 4]), ["hidden bbio spectral"]),
        (
            {"w": (5, 4, 6, 6)},
            lambda net, h, t: torch.einsum("bthc,bhco->btho", h.unflatten(-1, (4, 6)), net.w[t]).flatten(2),
            ["hidden bbio spectral"],
        ),
        (
            {"w": (2, 24, 24)},
            lambda net, h, t: torch.bmm(h, torch.where((t > 2)[:, None, None], net.w[0], net.w[1])),
            [BLOCKS],
        ),
        (
            {"a": (24, 24), "b": (24, 24)},
            lambda net, h, t: torch.bmm(h, torch.stack([net.a, net.b])[t % 2]),
            ["hidden io spectral"] * 2,
        ),
        (
            {"w": (5, 24, 24), "u": (24, 24)},
            lambda net, h, t: torch.bmm(h, net.u + net.w[t]),
            [BLOCKS, "hidden io spectral"],
        ),
        ({"a": (5, 24, 4), "b": (5, 4, 24)}, lambda net, h, t: h @ net.a[t] @ net.b[t], [BLOCKS] * 2),
        (
            {"a": (24, 24), "b": (24, 24)},
            lambda net, h, t: torch.bmm(h, torch.cat([net.a, net.b]).view(2, 24, 24)[t % 2]),
            ["hidden io spectral"] * 2,
        ),
        (
            {"w": (5, 24, 48)},
            lambda net, h, t: gated(torch.bmm(h, net.w[t])),
            ["hidden bio spectral 24 24"],
        ),
        (
            {"a": (5, 3), "v": (3, 24, 24)},
            lambda net, h, t: torch.bmm(h, (net.a @ net.v.flatten(1)).view(5, 24, 24)[t]),
            ["state bb sign", BLOCKS],
        ),
        (
            {"a": (3,), "v": (3, 24, 24)},
            lambda net, h, t: h @ torch.einsum("b,bio->io", net.a.softmax(0), net.v),
            ["state b sign", BLOCKS],
        ),
        ({"a": (5, 24, 4), "b": (5, 4, 24)}, lambda net, h, t: h @ (net.a[t] @ net.b[t]), [BLOCKS] * 2),
        (
            {"p": (5, 3, 24)},
            lambda net, h, t: h * torch.einsum("btd,bkd->btk", h, net.p[t]).amax(-1, keepdim=True),
            ["hidden boi spectral"],
        ),
    ],
)
def test_stacks_of_other_forms(shapes: Shapes, forward: Forward, expected: list[str]) -> None:
    assert rows(shapes, forward, KINDS) == expected


def test_a_table_of_flat_matrices_is_admitted() -> None:
    row = planned({"w": (5, 576)}, lambda net, h, t: h @ F.embedding(t, net.w).view(-1, 24, 24), KINDS).by_name["w"]
    assert row.fallback is not None


def sliding(h: Tensor, filters: Tensor) -> Tensor:
    """A convolution of every sample with filters of its own, as one of groups."""
    y = F.conv1d(h.mT.reshape(1, -1, 6), filters.reshape(-1, 24, 3), padding=1, groups=len(h))
    return y.view(len(h), 24, 6).mT


@pytest.mark.parametrize(
    "forward",
    [
        lambda net, h, t: sliding(h, torch.einsum("bk,koiw->boiw", shares(h, 4), net.k)),
        lambda net, h, t: sliding(h, shares(h, 4) @ net.k.flatten(1)),
        lambda net, h, t: sliding(h, h.mean(1)[:, :4].sigmoid() @ net.k.flatten(1)),
        lambda net, h, t: sliding(h, (shares(h, 4)[:, :, None, None, None] * net.k).sum(1)),
        lambda net, h, t: sliding(h, net.k[t % 4]),
        lambda net, h, t: sliding(
            h, (h.mean(1).sigmoid()[:, None, :, None, None] * net.k * shares(h, 4)[:, :, None, None, None]).sum(1)
        ),
        lambda net, h, t: F.conv1d(h.mT, torch.einsum("k,koiw->oiw", shares(h, 4).mean(0), net.k), padding=1).mT,
    ],
)
def test_mixed_filters_are_blocks(forward: Forward) -> None:
    assert rows(FILTERS, forward, KINDS) == ["hidden boik spectral"]


def attended(h: Tensor, e: Tensor) -> Tensor:
    return (h @ e.mT).softmax(-1) @ e


def by_heads(t: Tensor) -> Tensor:
    return t.unflatten(-1, (4, 6)).transpose(1, 2)


def words(t: Tensor) -> Tensor:
    return torch.stack([t, t + 5, t + 10], 1)


def scored(h: Tensor, score: Tensor) -> Tensor:
    return h * score[:, None, None]


# Rows that are vectors stay an embedding, whatever they are multiplied with.
VECTORS: dict[str, tuple[Shapes, Forward]] = {
    "DistMult": (
        {"e": (7, 24), "r": (5, 24)},
        lambda net, h, t: scored(h, (net.e[t] * net.r[t] * net.e[t + 1]).sum(-1)),
    ),
    "TransE": (
        {"e": (7, 24), "r": (5, 24)},
        lambda net, h, t: scored(h, (net.e[t] + net.r[t] - net.e[t + 1]).norm(dim=-1)),
    ),
    "factors of users and items": (
        {"u": (7, 24), "v": (7, 24)},
        lambda net, h, t: scored(h, (net.u[t] * net.v[t + 1]).sum(-1)),
    ),
    "a factorisation machine": (
        {"e": (40, 24)},
        lambda net, h, t: scored(h, (net.e[words(t)] @ net.e[words(t)].mT).sum((1, 2))),
    ),
    "word2vec": (
        {"u": (40, 24), "v": (40, 24)},
        lambda net, h, t: scored(h, torch.bmm(net.v[words(t)], net.u[t][..., None]).sum((1, 2))),
    ),
    "attention over words": ({"e": (40, 24)}, lambda net, h, t: attended(h, net.e[words(t)])),
    "attention over words by heads": (
        {"e": (40, 24)},
        lambda net, h, t: attended(by_heads(h), by_heads(net.e[words(t)])).transpose(1, 2).flatten(2),
    ),
    "a projection discriminator": (
        {"e": (5, 24)},
        lambda net, h, t: h * (net.e[t][:, None] * h).sum(-1, keepdim=True),
    ),
    "shift and scale": ({"e": (5, 24)}, lambda net, h, t: h * net.e[t][:, None]),
}


@pytest.mark.parametrize("name", VECTORS)
def test_rows_that_are_vectors_stay_an_embedding(name: str) -> None:
    shapes, forward = VECTORS[name]
    assert rows(shapes, forward, KINDS) == ["embedding xo colnorm"] * len(shapes)


def test_relations_that_are_matrices_are_blocks_beside_entities() -> None:
    def score(net: Around, h: Tensor, t: Tensor) -> Tensor:
        first, relation, second = net.e[t], net.r[t], net.e[t + 1]
        return scored(h, torch.einsum("bi,bij,bj->b", first, relation, second))

    found = rows({"e": (7, 24), "r": (5, 24, 24)}, score, KINDS)
    assert found == ["embedding xo colnorm", BLOCKS]


def test_what_a_linear_layer_makes_of_an_embedding_stays_so() -> None:
    found = rows({"e": (5, 24), "w": (24, 24)}, lambda net, h, t: h + (net.e[t] @ net.w)[:, None], KINDS)
    assert found == ["embedding xo colnorm", "hidden io spectral"]


def test_a_layer_that_makes_matrices_is_a_layer() -> None:
    found = rows({"w": (576, 24)}, lambda net, h: h @ F.linear(h.mean(1), net.w).view(-1, 24, 24))
    assert found == ["hidden oi spectral"]


def by_experts(h: Tensor) -> Tensor:
    return h.expand(4, -1, -1, -1)


def mixed_by_gates(net: Around, h: Tensor) -> Tensor:
    results = torch.einsum("bti,eio->bteo", h, net.w) + net.b
    return (results * h[..., :4].softmax(-1)[..., None]).sum(2)


BATCHED: dict[str, Forward] = {
    "new dimensions": lambda net, h: (by_experts(h) @ net.w[:, None] + net.b[:, None, None]).sum(0),
    "einsum": lambda net, h: (torch.einsum("ebti,eio->ebto", by_experts(h), net.w) + net.b[:, None, None]).sum(0),
    "unsqueezed": lambda net, h: (torch.bmm(h.flatten(0, 1).expand(4, -1, -1), net.w) + net.b.unsqueeze(1)).sum(0),
    "baddbmm": lambda net, h: torch.baddbmm(net.b[:, None], h.flatten(0, 1).expand(4, -1, -1), net.w).sum(0),
    "viewed": lambda net, h: torch.add(by_experts(h) @ net.w[:, None], net.b.view(4, 1, 1, -1)).relu().sum(0),
    "expanded": lambda net, h: (by_experts(h) @ net.w[:, None] + net.b[:, None, None].expand(4, 4, 6, 20)).sum(0),
    "repeated": lambda net, h: (by_experts(h) @ net.w[:, None] + net.b[:, None, None].repeat(1, 4, 6, 1)).sum(0),
    "mixed": mixed_by_gates,
}


@pytest.mark.parametrize("name", BATCHED)
def test_a_bias_of_batched_experts_has_their_blocks(name: str) -> None:
    found = rows({"w": (4, 24, 20), "b": (4, 20)}, BATCHED[name], width=20)
    assert found == ["hidden bio spectral", "bias bo rms"]


def test_a_gain_of_batched_experts_has_their_blocks() -> None:
    found = rows(
        {"w": (4, 24, 20), "g": (4, 20)},
        lambda net, h: (by_experts(h) @ net.w[:, None]).relu().mul(net.g[:, None, None]).sum(0),
        width=20,
    )
    assert found == ["hidden bio spectral", "gain bo rms"]
