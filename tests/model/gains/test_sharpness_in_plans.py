"""Second order, what a plan says of it: its documents, its footer, and what it leaves out."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normc.errors import NormcError
from normc.model.gains.bends import NORM, bend_of
from normc.plans.plan import NormPlan
from tests.model.gains.closed import atom, bond, composed
from tests.model.gains.sharp import VECTORS, Tanh, planned
from tests.recipe.modula import nets


def test_old_documents_load_and_new_ones_hold_it() -> None:
    plan = planned(Tanh(2), VECTORS)
    data = json.loads(plan.to_json())
    assert NormPlan.from_json(plan.to_json()).sharpness == plan.sharpness
    del data["sharpness"]
    old = NormPlan.from_json(json.dumps(data))
    assert old.sharpness[:3] == (None, None, None) and "no trace" in old.sharpness.missing
    data["sharpness"] = {"alpha": 1.0, "beta": -1.0, "gamma": 0.0}
    with pytest.raises(NormcError, match="beta"):
        NormPlan.from_json(json.dumps(data))


def test_averages_bound_nothing_and_are_not_written() -> None:
    plan = planned(Tanh(2), VECTORS, "average")
    assert plan.sharpness.alpha is None and "average gains" in plan.sharpness.missing
    assert "sharpness" not in json.loads(plan.to_json())
    assert "α" not in plan.text(120)


def test_the_first_op_without_a_rule_is_named() -> None:
    found = planned(nets.MLP(4, "relu"), VECTORS)
    assert found.sharpness.alpha is None and "aten.relu" in found.sharpness.missing
    assert "aten.relu" in found.text(120)


class Aside(nn.Module):
    """What has no second derivative doesn't lead to the output, or hangs on nothing that moves."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nets.linear(16, 16), nets.linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, 16]."""
        hidden = torch.tanh(self.first(x))
        torch.relu(hidden)
        out: Tensor = self.last(hidden * torch.relu(torch.ones(16)))
        return out


def test_only_what_lies_on_the_way_counts() -> None:
    assert planned(Aside(), VECTORS).sharpness == planned(Tanh(2), VECTORS).sharpness


def test_another_mass_is_another_norm() -> None:
    plan = planned(Tanh(2), VECTORS)
    bend = bend_of(torch.tanh)
    changed = plan.override("layers.0.weight", mass=0.9)
    module = composed(atom(0.1, 1.0), composed(bond(1.0, bend), atom(0.9, 1.0)))
    assert changed.sharpness.alpha == pytest.approx(module.alpha)
    assert plan.override("layers.0.weight", mass=0).sharpness.alpha == pytest.approx(0.0)


def test_the_footer_says_it_in_one_line() -> None:
    lines = [line for line in planned(Tanh(2), VECTORS).text(120).splitlines() if line.startswith("sharpness")]
    assert len(lines) == 1 and "α 0.6925, β 1.385" in lines[0]


class Block(nn.Module):
    """One op of each kind, for finite differences: sizes 1 in, and no rule off."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.first, self.gate = kind, nets.linear(16, 16), nets.linear(16, 16)
        self.scale, self.shift = nn.Parameter(torch.ones(16)), nn.Parameter(torch.zeros(16))

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, 16]."""
        a, b = self.first(x), self.gate(x)
        if self.kind == "gate":
            return a * b * self.scale + self.shift
        if self.kind == "norm":
            return F.layer_norm(a + b, (16,), self.scale, self.shift)
        return torch.cat([a, F.glu(torch.cat([a, b], -1), -1)], -1) * torch.cat([self.scale, self.shift])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("gate", lambda a, b, g, s: 2 * a * b + 2 * g * (a + b)),
        ("norm", lambda a, b, g, s: NORM * (a + b) ** 2 + 2 * g * (a + b)),
    ],
)
def test_gains_and_biases_meet_as_weights(kind: str, expected: Callable[..., float]) -> None:
    plan = planned(Block(kind), F.rms_norm(VECTORS, (16,)))
    steps = [plan[name].target for name in ("first.weight", "gate.weight", "scale", "shift")]
    assert plan.sharpness.alpha == pytest.approx(expected(*steps))
    assert plan.certificate().bound == pytest.approx(1.0)
