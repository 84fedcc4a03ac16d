"""Shares of learning: of what learns, and in wait of what is frozen."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import normc
from normc.errors import NormcError
from normc.plans.plan import NormPlan

X = torch.randn(4, 8)


class Residual(nn.Module):
    """A stem, three branches, a head; no biases."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(8, 8, bias=False), nn.Linear(8, 3, bias=False)
        self.branches = nn.ModuleList(nn.Linear(8, 8, bias=False) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, 8]."""
        x = self.stem(x)
        for branch in self.branches:
            x = x + branch(torch.tanh(x))
        return self.head(x)


def plan(*frozen: str, recipe: str = "modular-dual", **more: object) -> NormPlan:
    model = Residual()
    for name in frozen:
        model.get_submodule(name).requires_grad_(False)
    return normc.plan(model, X, recipe=recipe, **more)  # type: ignore[arg-type]


def masses(found: NormPlan) -> dict[str, float]:
    return {row.name.removesuffix(".weight"): row.mass or 0.0 for row in found}


def test_what_learns_shares_all_and_what_is_frozen_has_what_it_would_have() -> None:
    whole = masses(plan())
    assert whole == pytest.approx({"stem": 1 / 7, "head": 1 / 7, **{f"branches.{i}": 5 / 21 for i in range(3)}})
    for frozen in (("stem",), ("branches.0", "branches.1"), ("stem", "branches")):
        found = plan(*frozen)
        own = masses(found)
        asleep = {row.name.removesuffix(".weight") for row in found if row.frozen}
        assert math.fsum(own[name] for name in own if name not in asleep) == pytest.approx(1)
        assert {name: own[name] for name in asleep} == pytest.approx({name: whole[name] for name in asleep})
    assert masses(plan("stem", "branches"))["head"] == pytest.approx(1)


@pytest.mark.parametrize("recipe", ["modular-dual", "modula", "modula-adam"])
def test_the_certificate_counts_what_learns(recipe: str) -> None:
    found = plan("branches", recipe=recipe)
    assert found.certificate().masses == pytest.approx(1)
    assert found.certificate().bound == pytest.approx(1)
    row = found["branches.1.weight"]
    assert row.sensitivity is not None and row.magnitude is not None
    assert row.target == pytest.approx((row.mass or 0) / (row.sensitivity * row.magnitude))
    assert row.rule != "none" and row.frozen
    assert found.state_bytes == sum(own.state_bytes for own in found if not own.frozen)
    assert NormPlan.from_json(found.to_json()) == found


def test_all_that_is_frozen_has_its_shares_too() -> None:
    assert masses(plan("stem", "branches", "head")) == pytest.approx(masses(plan()))


def test_tare_and_overrides_of_frozen_rows_take_nothing_from_the_others() -> None:
    found = plan("branches", tare={"branches.*": 3.0, "stem.*": 2.0})
    assert masses(found) == pytest.approx({"stem": 2 / 3, "head": 1 / 3, **{f"branches.{i}": 1 / 6 for i in range(3)}})
    given = found.override("branches.0.weight", mass=0.25)
    assert masses(given) == masses(found) | {"branches.0": 0.25}
    assert given["branches.0.weight"].target == pytest.approx(1.5 * found["branches.0.weight"].target)
    more = found.override("head.weight", mass=0.5)
    assert masses(more) == pytest.approx(masses(found) | {"head": 0.5, "stem": 0.5})
    still = plan("branches", tare={"branches.*": 0.0})
    assert {(row.rule, row.mass) for row in still if row.frozen} == {("none", 0.0)}
    assert masses(still)["head"] == pytest.approx(0.5)
    dead = found.override("branches.1.weight", mass=0)
    assert dead["branches.1.weight"].rule == "none" and masses(dead)["head"] == masses(found)["head"]
    with pytest.raises(NormcError, match="nothing would learn"):
        found.override("*", mass=0)


def test_where_masses_set_no_target_who_is_frozen_changes_none() -> None:
    frozen, free = plan("branches", recipe="muon"), plan(recipe="muon")
    assert [(row.target, row.rule) for row in frozen] == [(row.target, row.rule) for row in free]


def test_tare_of_what_no_gradient_reaches_is_said() -> None:
    class Side(Residual):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.stem(x))

    found = normc.plan(Side(), X, tare={"branches.*": 2.0})
    assert any("'branches.*' goes to nobody" in note for note in found.notes)
