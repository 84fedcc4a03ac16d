"""Products in every spelling: an axis is what the equation makes of it, whichever op holds the equation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.model.ops.net import Around, Forward, Shapes, planned, rows

SQUARE: Shapes = {"w": (24, 24)}
FACTORS: Shapes = {"u": (24, 8), "v": (8, 24)}

SPELLINGS: dict[str, tuple[Shapes, Forward, list[str]]] = {
    "tensordot": (SQUARE, lambda net, h: torch.tensordot(h, net.w, dims=([-1], [0])), ["hidden io spectral"]),
    "tensordot, the weight first": (
        SQUARE,
        lambda net, h: torch.tensordot(net.w, h, dims=([1], [2])).permute(1, 2, 0),
        ["hidden oi spectral"],
    ),
    "tensordot over two axes": (
        {"w": (4, 6, 24)},
        lambda net, h: torch.tensordot(h.unflatten(-1, (4, 6)), net.w, dims=2),
        ["hidden iio spectral"],
    ),
    "inner": (SQUARE, lambda net, h: torch.inner(h, net.w), ["hidden oi spectral"]),
    "multi_dot": (
        FACTORS,
        lambda net, h: torch.linalg.multi_dot([h.flatten(0, 1), net.u, net.v]).unflatten(0, (4, 6)),
        ["hidden io spectral"] * 2,
    ),
    "block_diag": (
        {"a": (12, 12), "b": (12, 12)},
        lambda net, h: h @ torch.block_diag(net.a, net.b),
        ["hidden io spectral"] * 2,
    ),
    "vecdot": (SQUARE, lambda net, h: torch.linalg.vecdot(h[..., None, :], net.w), ["hidden oi spectral"]),
    "cosines": (SQUARE, lambda net, h: F.cosine_similarity(h[..., None, :], net.w, dim=-1), ["hidden oi spectral"]),
    "circulant blocks": (
        {"w": (4, 4, 6)},
        lambda net, h: torch.fft.irfft(
            torch.einsum("btqk,pqk->btpk", torch.fft.rfft(h.unflatten(-1, (4, 6))), torch.fft.rfft(net.w)), n=6
        ).flatten(2),
        ["hidden oib spectral"],
    ),
    "kron": (
        {"a": (4, 6), "b": (6, 4)},
        lambda net, h: h @ torch.kron(net.a, net.b),
        ["hidden io spectral"] * 2,
    ),
    "kron with a constant": ({"a": (4, 4)}, lambda net, h: h @ torch.kron(torch.eye(6), net.a), ["hidden io spectral"]),
    "fake quantisation": (
        SQUARE,
        lambda net, h: h @ torch.fake_quantize_per_tensor_affine(net.w, 0.1, 0, -8, 7),
        ["hidden io spectral"],
    ),
    "learned steps of quantisation": (
        {"w": (24, 24), "step": (24,)},
        lambda net, h: F.linear(
            h, torch._fake_quantize_learnable_per_channel_affine(net.w, net.step, torch.zeros(24), 0, -8, 7, 1.0)
        ),
        ["hidden oi spectral", "gain o rms"],
    ),
    "the result gated": (SQUARE, lambda net, h: torch.einsum("bti,io,bto->bto", h, net.w, h), ["hidden io spectral"]),
    "heads": (
        {"w": (4, 6, 6)},
        lambda net, h: torch.einsum("bthd,hde->bthe", h.unflatten(-1, (4, 6)), net.w).flatten(2),
        ["hidden bio spectral"],
    ),
    "a bilinear layer": (
        {"w": (24, 24, 24)},
        lambda net, h: torch.einsum("bti,oij,btj->bto", h, net.w, h),
        ["hidden oii spectral"],
    ),
    "a bilinear form": (
        SQUARE,
        lambda net, h: h * torch.einsum("bti,ij,btj->bt", h, net.w, h)[..., None],
        ["hidden io spectral"],
    ),
    "two factors that meet": (
        {"u": (24, 8), "v": (24, 8)},
        lambda net, h: h * torch.einsum("bti,ir,btj,jr->bt", h, net.u, h, net.v)[..., None],
        ["hidden io spectral"] * 2,
    ),
    "Tucker's bilinear form": (
        {"core": (24, 8, 3), "u": (8, 24), "v": (3, 24)},
        lambda net, h: torch.einsum("btc,cij,btd,id,bte,je->btc", h, net.core, h, net.u, h, net.v),
        ["hidden oii spectral", "hidden oi spectral", "hidden oi spectral"],
    ),
    "a train of two tensors": (
        {"a": (4, 6, 3), "b": (3, 4, 6)},
        lambda net, h: torch.einsum("btij,air,rjc->btac", h.unflatten(-1, (6, 4)), net.a, net.b).flatten(2),
        ["hidden oio spectral", "hidden iio spectral"],
    ),
    "singular values": (
        {"u": (24, 8), "s": (8,), "v": (8, 24)},
        lambda net, h: h @ torch.einsum("ir,r,ro->io", net.u, net.s, net.v),
        ["hidden io spectral", "gain o rms", "hidden io spectral"],
    ),
    "a gain beside a matrix": (
        {"g": (24,), "w": (24, 24)},
        lambda net, h: torch.einsum("btd,d,de->bte", h, net.g, net.w),
        ["gain o rms", "hidden io spectral"],
    ),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_product_in_every_spelling(name: str) -> None:
    shapes, forward, expected = SPELLINGS[name]
    assert rows(shapes, forward) == expected


# Where an einsum sums nothing of a weight, it multiplies entry by entry.
ENTRYWISE: dict[str, tuple[Shapes, Forward, list[str]]] = {
    "a gain": ({"g": (24,)}, lambda net, h: torch.einsum("btd,d->btd", h, net.g), ["gain o rms"]),
    "a gain for every head": (
        {"g": (4,)},
        lambda net, h: torch.einsum("bthd,h->bthd", h.unflatten(-1, (4, 6)), net.g).flatten(2),
        ["gain o rms"],
    ),
    "decays of a scan": (
        {"decay": (24, 4)},
        lambda net, h: torch.einsum("btd,dn->btdn", h, -net.decay.exp()).exp().sum(-1),
        ["state oo sign"],
    ),
    "a score of two activations": (
        {"r": (24,)},
        lambda net, h: torch.einsum("btd,bsd,d->bts", h, h, net.r).softmax(-1) @ h,
        ["gain o rms"],
    ),
    "shares of layers": (
        {"w": (3,)},
        lambda net, h: torch.einsum("l,lbtd->btd", net.w.softmax(0), torch.stack([h, 2 * h, h.tanh()])),
        ["state x sign"],
    ),
}


@pytest.mark.parametrize("name", ENTRYWISE)
def test_an_einsum_that_sums_nothing_of_a_weight_multiplies(name: str) -> None:
    shapes, forward, expected = ENTRYWISE[name]
    found = rows(shapes, forward)
    if name == "decays of a scan":
        assert [row.split()[0] for row in found] == ["state"]
    else:
        assert found == expected


def distances(net: object, h: Tensor, table: Tensor) -> Tensor:
    return -torch.cdist(h, table[None].expand(len(h), -1, -1))


def squares(h: Tensor, table: Tensor) -> Tensor:
    difference = table - h.unsqueeze(-2)
    return (difference * difference).sum(-1)


def as_wide(h: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    return h.unsqueeze(2).expand(4, 6, 10, 24), table.expand(4, 6, 10, 24)


@pytest.mark.parametrize(
    "forward",
    [
        lambda net, h: -((h[..., None, :] - net.w) ** 2).sum(-1),
        lambda net, h: (-(h.mean(1)[:, None] - net.w).pow(2).sum(-1)).exp(),
        lambda net, h: (h.mean(1).unsqueeze(1) - net.w).abs().sum(-1),
        lambda net, h: ((h[..., None, :] + (-net.w)).abs() ** 3).mean(-1),
        lambda net, h: torch.norm(h[..., None, :] - net.w, dim=-1),
        lambda net, h: torch.linalg.vector_norm(h[..., None, :] - net.w, dim=-1) ** 2,
        lambda net, h: (net.w - h[..., None, :]).norm(p=1, dim=-1, keepdim=True).squeeze(-1),
        lambda net, h: squares(h, net.w),
        lambda net, h: (as_wide(h, net.w)[0] - as_wide(h, net.w)[1]).square().sum(3),
        lambda net, h: F.mse_loss(*as_wide(h, net.w), reduction="none").sum(-1),
        lambda net, h: distances(net, h, net.w),
        lambda net, h: -torch.cdist(h.mean(1), net.w),
        lambda net, h: -torch.cdist(net.w, h.mean(1)).T,
        lambda net, h: F.pairwise_distance(h.mean(1)[:, None], net.w),
        lambda net, h: F.pairwise_distance(h.mean(1)[:, None], net.w, keepdim=True),
    ],
)
def test_prototypes_are_the_rows_of_an_output(forward: Forward) -> None:
    found = rows({"w": (10, 24)}, forward, head=False, also=("stem.weight",))
    assert found == ["output oi spectral", "input oi spectral"]


def test_centres_of_radial_functions_lie_between_layers() -> None:
    def near(net: Around, h: Tensor) -> Tensor:
        return (-(((h[..., None, :] - net.w) / net.s.exp()) ** 2).sum(-1)).exp()

    found = rows({"w": (10, 24), "s": (24,)}, near, width=10, also=("stem.weight", "head.weight"))
    assert found == ["hidden oi spectral", "state o sign", "input oi spectral", "output oi spectral"]


def test_numbers_that_make_a_matrix_by_a_fixed_index_are_each_by_themselves() -> None:
    places = (torch.arange(24)[:, None] - torch.arange(24)) % 24
    row = planned({"w": (24,)}, lambda net, h: h @ net.w[places]).by_name["w"]
    assert row.role == "state"
    assert row.norm == "sign"


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_number_that_the_model_only_returns_is_a_scalar(shape: tuple[int, ...]) -> None:
    assert rows({"w": shape}, lambda net, h: (h, net.w.exp()), head=False)[0].startswith("scalar")


def test_weights_that_are_written_into_one_are_admitted_both() -> None:
    def assembled(net: Around, h: Tensor) -> Tensor:
        whole = torch.zeros(24, 24)
        whole[:12], whole[12:] = net.a, net.b
        return F.linear(h, whole)

    plan = planned({"a": (12, 24), "b": (12, 24)}, assembled)
    assert [plan.by_name[name].fallback is None for name in "ab"] == [False, False]


def test_a_bias_behind_a_filter_of_frequencies_lies_along_the_channels() -> None:
    def filtered(net: Around, h: Tensor) -> Tensor:
        modes = torch.fft.fftshift(torch.fft.rfft(h.mT), dim=-1)
        kept = torch.zeros_like(modes)
        kept[..., :3] = modes[..., :3] * 2
        return (torch.fft.irfft(torch.fft.ifftshift(kept, dim=-1), n=6) + net.b).mT

    assert rows({"b": (24, 1)}, filtered) == ["bias o- rms"]
