"""A product entry by entry and then a sum is a product of matrices; what constants build filters of is a state."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.model.ops.net import Around, Forward, Shapes, rows

SQUARE: Shapes = {"w": (24, 24)}
PLACES = torch.linspace(-1, 1, 7)

SUMMED: dict[str, tuple[Shapes, Forward, list[str]]] = {
    "sum": (SQUARE, lambda net, h: (h[..., None] * net.w).sum(-2), ["hidden io spectral"]),
    "sum, the weight stored as a layer's": (
        SQUARE,
        lambda net, h: torch.sum(net.w * h.unsqueeze(-2), dim=3),
        ["hidden oi spectral"],
    ),
    "mean": (SQUARE, lambda net, h: (h[..., None] * net.w).mean(-2), ["hidden io spectral"]),
    "kept": (
        SQUARE,
        lambda net, h: (h[..., None] * net.w).sum(-2, keepdim=True).squeeze(-2),
        ["hidden io spectral"],
    ),
    "turned": (SQUARE, lambda net, h: (h[..., None] * net.w).transpose(-1, -2).sum(-1), ["hidden io spectral"]),
    "einsum of one": (SQUARE, lambda net, h: torch.einsum("btio->bto", h[..., None] * net.w), ["hidden io spectral"]),
    "einsum without a sum": (
        SQUARE,
        lambda net, h: torch.einsum("bti,io->btio", h, net.w).sum(2),
        ["hidden io spectral"],
    ),
    "with ones": (
        SQUARE,
        lambda net, h: torch.einsum("btio,i->bto", h[..., None] * net.w, torch.ones(24)),
        ["hidden io spectral"],
    ),
    "with a column of ones": (
        SQUARE,
        lambda net, h: ((h[..., None, :] * net.w) @ torch.ones(24, 1)).squeeze(-1),
        ["hidden oi spectral"],
    ),
    "expanded": (
        SQUARE,
        lambda net, h: (h.unsqueeze(-1).expand(-1, -1, -1, 24) * net.w).sum(2),
        ["hidden io spectral"],
    ),
    "masked": (
        SQUARE,
        lambda net, h: (h[..., None] * net.w * torch.ones(24, 24).tril()).sum(-2),
        ["hidden io spectral"],
    ),
    "scaled": (
        {"w": (24, 24), "g": (24,)},
        lambda net, h: (h[..., None] * net.w * net.g).sum(-2),
        ["hidden io spectral", "gain o rms"],
    ),
    "two terms": (
        {"u": (24, 24), "v": (24, 24)},
        lambda net, h: (h[..., None] * net.u + h.tanh()[..., None] * net.v).sum(-2),
        ["hidden io spectral"] * 2,
    ),
    "groups": (
        {"k": (8, 3, 8)},
        lambda net, h: (h.view(4, 6, 1, 3, 8) * net.k).sum(-1).transpose(-1, -2).flatten(2),
        ["hidden obi spectral"],
    ),
    "places": ({"w": (6, 6)}, lambda net, h: (h[:, :, None] * net.w[..., None]).sum(1), ["hidden io spectral"]),
}


@pytest.mark.parametrize("name", SUMMED)
def test_product_and_sum_is_a_matrix(name: str) -> None:
    shapes, forward, expected = SUMMED[name]
    assert rows(shapes, forward) == expected


def test_a_base_beside_splines_is_a_matrix() -> None:
    """The layer of a Kolmogorov-Arnold network: a base function's share and splines' shares, summed over inputs."""

    def layer(net: Around, h: Tensor) -> Tensor:
        powers = torch.stack([h**i for i in range(5)], -1)
        curves = torch.einsum("btig,iog->btio", powers, net.c)
        return (net.a * h.tanh()[..., None] + net.b * curves).sum(2)

    found = rows({"a": (24, 24), "b": (24, 24), "c": (24, 24, 5)}, layer)
    assert found[:2] == ["hidden io spectral", "gain bo rms"]


# A sum over the product with a vector is what `h @ a` is: a matrix of one output, or one for every head.
VECTORS: list[tuple[Shapes, Forward, str]] = [
    ({"a": (24,)}, lambda net, h: h @ net.a, "i spectral"),
    ({"a": (24,)}, lambda net, h: F.linear(h, net.a[None])[..., 0], "i spectral"),
    ({"a": (24,)}, lambda net, h: torch.einsum("btd,d->bt", h, net.a), "i spectral"),
    ({"a": (24,)}, lambda net, h: (h * net.a).sum(-1), "i spectral"),
    ({"a": (24,)}, lambda net, h: torch.mul(net.a, h).mean(dim=2), "i spectral"),
    ({"a": (1, 4, 6)}, lambda net, h: torch.einsum("bthd,xhd->bth", h.unflatten(-1, (4, 6)), net.a), "obi spectral"),
    ({"a": (1, 4, 6)}, lambda net, h: (F.leaky_relu(h.unflatten(-1, (4, 6))) * net.a).sum(-1), "obi spectral"),
]


@pytest.mark.parametrize(("shapes", "forward", "expected"), VECTORS)
@pytest.mark.parametrize("last", [True, False])
def test_product_with_a_vector_and_sum_is_a_matrix(shapes: Shapes, forward: Forward, expected: str, last: bool) -> None:
    def scaled(net: Around, h: Tensor) -> Tensor:
        scores = forward(net, h).flatten(2) if h.dim() > 2 and "b" in expected else forward(net, h)[..., None]
        return scores if last else h * scores.mean(-1, keepdim=True)

    role = "output" if last else "hidden"
    found = rows(shapes, scaled, head=not last, also=("stem.weight",))
    assert found == [f"{role} {expected}", "input oi spectral"]


# Gains whose product is averaged, normalised, compared or returned stay gains.
GAINS: dict[str, tuple[Shapes, Forward, str]] = {
    "averaged over places": ({"g": (24,)}, lambda net, h: (h * net.g).mean(1, keepdim=True) + h, "gain o rms"),
    "normalised": (
        {"g": (24,)},
        lambda net, h: (h * net.g - (h * net.g).mean(-1, keepdim=True)) / (h * net.g).std(-1, keepdim=True),
        "gain o rms",
    ),
    "a score of two activations": (
        {"g": (24,)},
        lambda net, h: (h[:, :, None] * net.g * h[:, None]).sum(-1).softmax(-1) @ h,
        "gain o rms",
    ),
    "summed to a loss": ({"g": (24,)}, lambda net, h: h + (h * net.g).sum(), "gain o rms"),
    "keys": (
        {"g": (4, 6)},
        lambda net, h: (lambda q: ((q @ q.mT).softmax(-1) @ q).transpose(1, 2).flatten(2))(
            (h.unflatten(-1, (4, 6)) * net.g).transpose(1, 2)
        ),
        "gain oo rms",
    ),
}


@pytest.mark.parametrize("name", GAINS)
def test_gains_stay_gains(name: str) -> None:
    shapes, forward, expected = GAINS[name]
    assert rows(shapes, forward) == [expected]


def slid(h: Tensor, filters: Tensor) -> Tensor:
    """A filter a channel."""
    return F.conv1d(h.mT, filters[:, None], padding=filters.shape[-1] // 2, groups=24).mT


def band(low: Tensor, high: Tensor) -> Tensor:
    """Sines below two frequencies, and a symmetric filter of their difference."""
    half = (torch.sin(high @ PLACES[None]) - torch.sin(low @ PLACES[None])) / (PLACES + 2)
    return torch.cat([half, torch.ones(24, 1), half.flip(1)], 1)


BUILT: dict[str, tuple[Shapes, Forward]] = {
    "a band": ({"low": (24, 1), "width": (24, 1)}, lambda net, h: slid(h, band(net.low, net.low + net.width.abs()))),
    "sines": ({"f": (24, 1)}, lambda net, h: slid(h, torch.sin(net.f * PLACES))),
    "outer": ({"f": (24,)}, lambda net, h: slid(h, torch.sin(torch.outer(net.f, PLACES)))),
    "einsum": ({"f": (24,)}, lambda net, h: slid(h, torch.sin(torch.einsum("c,k->ck", net.f, PLACES)))),
    "Gabor": (
        {"f": (24,), "s": (24,)},
        lambda net, h: slid(h, (-(PLACES**2) / net.s[:, None] ** 2).exp() * (net.f[:, None] * PLACES).cos()),
    ),
    "a matrix of waves": ({"f": (24,)}, lambda net, h: h @ (net.f * torch.linspace(0, 1, 24)[:, None]).cos()),
}


@pytest.mark.parametrize("name", BUILT)
def test_what_filters_are_built_of_is_a_state(name: str) -> None:
    shapes, forward = BUILT[name]
    assert [row.split()[0] for row in rows(shapes, forward)] == ["state"] * len(shapes)


def test_coefficients_of_fixed_filters_are_fan_in() -> None:
    basis = torch.randn(4, 7)
    found = rows(
        {"c": (24, 24, 4)}, lambda net, h: F.conv1d(h.mT, torch.einsum("oin,nk->oik", net.c, basis), padding=3).mT
    )
    assert found == ["hidden oii spectral"]


def test_fixed_sines_stand_as_activations() -> None:
    sines = torch.randn(6, 8)
    found = rows({"w": (8, 24)}, lambda net, h: (h @ (sines @ net.w).T).softmax(-1) @ h)
    assert found == ["input io spectral"]
