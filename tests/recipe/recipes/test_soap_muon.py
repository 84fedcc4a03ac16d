"""SOAP-Muon: equality with the algorithm written out, off and on the sphere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normc.errors import NormcError
from tests.beside import apart, beside_adamw, orthogonal
from tests.handmade import after, draft, plan_of
from tests.recipe.recipes.test_soap import Plain as Soap
from tests.ties import firm_bases


class Plain(Soap):
    """SOAP's direction, then Muon's norm and step; or that of the sphere."""

    def __init__(self, hidden: list[nn.Parameter], lr: float, sphere: bool, **own: Any) -> None:
        super().__init__(nn.ParameterList(hidden), lr, **own)
        self.sphere = sphere
        self.radii = {id(w): float(torch.linalg.matrix_norm(w.detach())) for w in hidden}

    @torch.no_grad()
    def update(self, w: Tensor, g: Tensor, state: dict[str, Any]) -> None:
        u = orthogonal(self.direction(g, state))
        if self.sphere:
            radius = self.radii[id(w)]
            moved = w - self.lr * radius * u / torch.linalg.matrix_norm(u).clamp_min(1e-30)
            w.copy_(radius * moved / torch.linalg.matrix_norm(moved))
        else:
            w.mul_(1 - self.lr * 0.01).sub_(self.lr * max(1.0, w.shape[0] / w.shape[1]) ** 0.5 * u)


OPTIONS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"precondition_frequency": 3, "max_precond_dim": 16}, {"every": 3, "largest": 16}),
    ({"one_sided": True, "shampoo_beta": 0.8}, {"one": True, "beta": 0.8}),
]


@pytest.mark.parametrize("radius", ["none", "sphere"])
@pytest.mark.parametrize(("options", "plain"), OPTIONS)
def test_soap_muon_equals_the_algorithm(
    options: dict[str, Any], plain: dict[str, Any], radius: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thirty steps in float64, with refreshments."""
    firm_bases(monkeypatch)
    originals = beside_adamw(lambda hidden: Plain(hidden, 5e-3, radius == "sphere", **plain), 5e-3)
    options = {**options, "radius": radius}
    assert apart(torch.float64, "soap-muon", originals, 5e-3, options, steps=30) <= 1e-10


def moved(start: Tensor, grads: Tensor, **options: Any) -> Tensor:
    return after(draft("w", (6, 4), "hidden", dtype="float64"), start, grads, "soap-muon", options)


def test_the_first_step_only_decays_and_a_zero_matrix_leaves_zero() -> None:
    grads = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    start = torch.ones(6, 4, dtype=torch.float64)
    torch.testing.assert_close(moved(start, grads[:1]), start * (1 - 0.1 * 0.01))
    torch.testing.assert_close(moved(start, grads[:1], radius="sphere"), start)
    from_zero = moved(torch.zeros_like(start), grads, radius="sphere")
    assert float(from_zero.norm()) == pytest.approx(0.1 * 6**0.5)


def test_options_are_checked() -> None:
    for bad, known in (({"radius": "ball"}, "none, sphere"), ({"adjust_lr": "auto"}, "original"),
                       ({"precondition_frequency": 2.5}, "whole number")):  # fmt: skip
        with pytest.raises(NormcError, match=known):
            plan_of([draft("w", (8, 4), "hidden")], "soap-muon", **bad)
