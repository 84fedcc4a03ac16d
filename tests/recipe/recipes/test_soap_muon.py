"""SOAP-Muon: equality with the algorithm written out, off and on the sphere; blocks are matrices of their own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normc.compiler import build
from normc.errors import NormcError
from normc.plans.row import Row
from normc.update.polynomials.by_name import KELLER
from tests.beside import apart
from tests.blocked import BLOCKED, Case, parts
from tests.handmade import draft, plan_of
from tests.recipe.recipes.test_muon import Named, shares
from tests.recipe.recipes.test_soap import Plain as Soap
from tests.ties import firm_bases


def orthogonal(x: Tensor) -> Tensor:
    """Five steps of Newton-Schulz; zero for zero."""
    x = x / torch.linalg.matrix_norm(x).clamp_min(1e-30)
    for _ in range(5):
        a = x @ x.T
        x = KELLER[0] * x + KELLER[1] * a @ x + KELLER[2] * a @ a @ x
    return x


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

    def originals(named: Named) -> list[Any]:
        hidden, rest = shares(named)
        adamw = torch.optim.AdamW(rest, 5e-3, betas=(0.9, 0.95), weight_decay=0.01)
        return [Plain(hidden, 5e-3, radius == "sphere", **plain), adamw]

    options = {**options, "radius": radius}
    assert apart(torch.float64, "soap-muon", originals, 5e-3, options, steps=30) <= 1e-10


def after(row: Row, start: Tensor, grads: Tensor, backend: str = "cpu", **options: Any) -> Tensor:
    """A weight after steps with these gradients."""
    w = nn.Parameter(start.clone())
    plan = plan_of([row], "soap-muon", precondition_frequency=2, **options)
    opt = build(plan, [("w", w)], lr=0.1, compile=False, backend=backend)
    for grad in grads:
        w.grad = grad.clone()
        opt.step()
    return w.detach()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("radius", ["none", "sphere"])
@pytest.mark.parametrize("case", BLOCKED, ids=lambda case: case.name)
def test_each_block_is_a_matrix_of_its_own(
    case: Case, radius: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    firm_bases(monkeypatch)
    generator = torch.Generator().manual_seed(4)
    grads = torch.randn(6, *case.shape, generator=generator, dtype=torch.float64)
    start = torch.randn(case.shape, generator=generator, dtype=torch.float64)
    row = draft("w", case.shape, "hidden", dtype="float64", **case.facts)
    found = after(row, start, grads, backend, radius=radius)
    every = zip(*(parts(case, grad) for grad in grads), strict=True)
    for mine, own, first in zip(parts(case, found), every, parts(case, start), strict=True):
        alone = draft("w", tuple(mine.shape), "hidden", dtype="float64")
        expected = after(alone, first, torch.stack(own), radius=radius)
        torch.testing.assert_close(mine, expected, atol=1e-10, rtol=0)


def test_the_first_step_only_decays_and_a_zero_matrix_leaves_zero() -> None:
    grads = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    row = draft("w", (6, 4), "hidden", dtype="float64")
    start = torch.ones(6, 4, dtype=torch.float64)
    torch.testing.assert_close(after(row, start, grads[:1]), start * (1 - 0.1 * 0.01))
    torch.testing.assert_close(after(row, start, grads[:1], radius="sphere"), start)
    moved = after(row, torch.zeros_like(start), grads, radius="sphere")
    assert float(moved.norm()) == pytest.approx(0.1 * 6**0.5)


def test_options_are_checked() -> None:
    for bad, known in (({"radius": "ball"}, "none, sphere"), ({"adjust_lr": "auto"}, "original"),
                       ({"precondition_frequency": 2.5}, "whole number")):  # fmt: skip
        with pytest.raises(NormcError, match=known):
            plan_of([draft("w", (8, 4), "hidden")], "soap-muon", **bad)
