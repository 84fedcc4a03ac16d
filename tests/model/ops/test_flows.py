"""Layers of normalising flows: their log-determinants are sums over parameters, which say nothing about their roles."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.model.ops.net import Around, planned, rows

ORDER = torch.eye(24)[torch.randperm(24, generator=torch.Generator().manual_seed(0))]


def density(x: Tensor, determinant: Tensor) -> Tensor:
    return -(x**2).sum(-1) / 2 + determinant


def scaled(net: Around, h: Tensor) -> Tensor:
    return density(h * net.s.exp() + net.t, net.s.sum())


def scaled_back(net: Around, h: Tensor) -> Tensor:
    total = torch.zeros(4, 6)
    total += -net.s.sum()
    return density((h - net.t) * torch.exp(-net.s), total)


@pytest.mark.parametrize("forward", [scaled, scaled_back])
def test_scale_and_shift_whose_determinant_is_returned(forward: object) -> None:
    found = rows({"s": (1, 24), "t": (1, 24)}, forward, head=False)  # type: ignore[arg-type]  # one of the two above
    assert found == ["state -o sign", "bias -o rms"]


def test_entries_that_are_but_summed_up_are_a_state() -> None:
    assert rows({"s": (1, 24)}, lambda net, h: h + net.s.sum())[0].startswith("state")


@pytest.mark.parametrize("turned", [True, False])
def test_a_matrix_in_two_triangles_behind_a_permutation(turned: bool) -> None:
    def triangles(net: Around, h: Tensor) -> Tensor:
        low = net.low.tril(-1) + torch.eye(24)
        high = net.high.triu(1) + torch.diag(torch.exp(net.d))
        whole = torch.inverse(high) @ torch.inverse(low) @ ORDER.T if turned else ORDER @ low @ high
        return F.linear(h, whole) + net.d.sum()

    found = rows({"low": (24, 24), "high": (24, 24), "d": (24,)}, triangles)
    assert found[:2] == ["hidden io spectral" if turned else "hidden oi spectral"] * 2  # an inverse goes the other way
    assert found[2].startswith("state")


def test_a_permutation_leaves_a_matrix_as_it_is() -> None:
    found = rows({"w": (24, 24), "v": (24, 24)}, lambda net, h: (h @ (ORDER @ net.w)).relu() @ (net.v @ ORDER))
    assert found == ["hidden io spectral"] * 2


DETERMINANTS = {
    "slogdet": lambda w: torch.slogdet(w)[1],
    "linalg.slogdet": lambda w: torch.linalg.slogdet(w).logabsdet,
    "logdet": torch.logdet,
    "det": lambda w: torch.det(w).abs().log(),
    "of a triangle": lambda w: w.diagonal().abs().log().sum(),
    "by a decomposition": lambda w: torch.linalg.cholesky(w @ w.T).diagonal().log().sum(),
}


@pytest.mark.parametrize("determinant", DETERMINANTS.values(), ids=DETERMINANTS)
@pytest.mark.parametrize("convolved", [False, True])
def test_a_matrix_whose_determinant_is_returned(convolved: bool, determinant: Callable[[Tensor], Tensor]) -> None:
    def forward(net: Around, h: Tensor) -> tuple[Tensor, Tensor]:
        z = h * net.s.exp() + net.t
        y = F.conv1d(z.mT, net.w[:, :, None]).mT if convolved else F.linear(z, net.w)
        one, other = y.chunk(2, -1)
        scale = F.linear(one, net.a)
        return torch.cat([one, other * scale.exp()], -1), 6 * determinant(net.w) + net.s.sum() + scale.sum((1, 2))

    found = rows({"w": (24, 24), "s": (24,), "t": (24,), "a": (12, 12)}, forward, head=False)
    assert [row.split()[:2] for row in found] == [["hidden", "oi"], ["state", "o"], ["bias", "o"], ["output", "oi"]]


def test_a_determinant_alone_makes_no_matrix() -> None:
    plan = planned({"w": (24, 24)}, lambda net, h: h.sum(-1) + torch.slogdet(net.w)[1], head=False)
    assert plan["w"].role == "state" and plan["w"].norm == "sign"
