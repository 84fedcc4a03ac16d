"""Complex numbers and Fourier transforms: no axis is lost, and what no update takes is said."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.fft import irfft, irfft2, rfft, rfft2
from torch.nn import functional as F

from tests.model.ops.net import Forward, Shapes, planned, rows


def number(w: Tensor) -> Tensor:
    return torch.view_as_complex(w)


def whole(h: Tensor) -> Tensor:
    return h.to(torch.complex64)


def low_modes(h: Tensor, filters: Tensor) -> Tensor:
    modes = rfft(h, dim=1)
    kept = torch.einsum("bkc,cok->bko", modes[:, :3], filters)
    return irfft(torch.cat([kept, torch.zeros_like(modes[:, 3:])], 1), n=6, dim=1)


def over_two(h: Tensor, filters: Tensor) -> Tensor:
    return irfft2(rfft2(h, dim=(1, 2)) * filters, s=(2, 3), dim=(1, 2))


def turned(t: Tensor) -> Tensor:
    angles = torch.polar(torch.ones(6, 12), torch.arange(6.0)[:, None].expand(6, 12))
    return torch.view_as_real(number(t.unflatten(-1, (12, 2)).contiguous()) * angles).flatten(2)


def rotary(h: Tensor, q: Tensor, k: Tensor) -> Tensor:
    return (turned(q) @ turned(k).mT).softmax(-1) @ h


MATRIX: Shapes = {"w": (24, 24, 2)}
LAYERS: dict[str, tuple[Shapes, Forward, list[str]]] = {
    "a complex layer": (
        {"w": (24, 24, 2), "b": (24, 2)},
        lambda net, h: (whole(h) @ number(net.w) + number(net.b)).real,
        ["hidden iob spectral", "bias ob rms"],
    ),
    "linear": (MATRIX, lambda net, h: F.linear(whole(h), number(net.w)).abs(), ["hidden oib spectral"]),
    "parts of one parameter": (
        MATRIX,
        lambda net, h: (whole(h) @ torch.complex(*net.w.unbind(-1))).abs(),
        ["hidden iob spectral"],
    ),
    "parts of a stack": (
        {"w": (2, 24, 24)},
        lambda net, h: (whole(h) @ torch.complex(*net.w)).abs(),
        ["hidden bio spectral"],
    ),
    "parts apart": (
        {"u": (24, 24), "v": (24, 24)},
        lambda net, h: (whole(h) @ torch.complex(net.u, net.v)).abs(),
        ["hidden io spectral"] * 2,
    ),
    "a filter of frequencies": (
        {"w": (4, 24, 2)},
        lambda net, h: irfft(rfft(h, dim=1) * number(net.w), n=6, dim=1),
        ["state xob sign"],
    ),
    "a filter of two frequencies": (
        {"w": (2, 2, 24, 2)},
        lambda net, h: over_two(h.unflatten(1, (2, 3)), number(net.w)).flatten(1, 2),
        ["state xxob sign"],
    ),
    "a matrix for every frequency": (
        {"w": (24, 24, 3, 2)},
        lambda net, h: low_modes(h, number(net.w)),
        ["hidden iobb spectral"],
    ),
    "after a transform": (
        {"w": (24, 24)},
        lambda net, h: torch.fft.fft2(h).real @ net.w,
        ["hidden io spectral"],
    ),
    "rotary": ({"w": (24, 48)}, lambda net, h: rotary(h, *(h @ net.w).chunk(2, -1)), ["hidden io spectral 24 24"]),
    "a circulant matrix": ({"w": (24,)}, lambda net, h: irfft(rfft(h) * rfft(net.w), n=24), ["state o sign"]),
    "a long convolution": (
        {"w": (24, 6)},
        lambda net, h: irfft(rfft(h.mT, n=12) * rfft(net.w, n=12), n=12)[..., :6].mT,
        ["state ox sign"],
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_axes_of_complex_layers(name: str) -> None:
    shapes, forward, expected = LAYERS[name]
    assert rows(shapes, forward) == expected


def test_a_complex_table_is_looked_up() -> None:
    labels = torch.tensor([3, 1, 4, 1])
    found = rows({"w": (5, 24, 2)}, lambda net, h, t: h + number(net.w)[t].abs()[:, None], labels)
    assert found == ["embedding xoo colnorm"]


def test_a_complex_parameter_is_admitted() -> None:
    row = planned({"complex_w": (24, 24, 3)}, lambda net, h: low_modes(h, net.complex_w)).by_name["complex_w"]
    assert (row.in_axes, row.out_axes, row.block_axes) == ((0,), (1,), (2,))
    assert row.fallback is not None and "complex" in row.fallback
