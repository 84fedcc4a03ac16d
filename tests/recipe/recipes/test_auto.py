"""The default recipe: what each row gets, its choices one by one, and fifty steps against a loop."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normc
from normc.compiler import build
from normc.plans.plan import NormPlan
from normc.plans.row import Row, Use
from normc.update.ops.matrices import polar
from normc.update.polynomials.by_name import polynomials
from tests.handmade import draft, plan_of
from tests.recipe.recipes.tiny import CONTEXT, TinyGPT, difference, made, tokens

KERNEL: dict[str, Any] = {"kernel_axes": (2, 3)}
TABLE = Use("embedding", "aten.embedding", "", "", ("index", "out"))
CASES = [
    ("input", (8, 4, 3, 3), KERNEL, {}, "spectral", "lmo", 2 * math.sqrt(8 / 36)),
    ("hidden", (8, 4, 3, 3), KERNEL, {}, "spectral", "lmo", 2 * math.sqrt(8 / 36)),
    ("hidden", (8, 4, 3, 3), KERNEL, {"kernels": "slices"}, "slices", "lmo", 2 * math.sqrt(8 / 4) / 9),
    ("hidden", (8, 4, 1, 1), KERNEL, {}, "spectral", "lmo", 2 * math.sqrt(8 / 4)),
    ("output", (50, 16), {"uses": (TABLE,)}, {}, "sign", "adam", 2 / 4),
    ("output", (50, 16), {"uses": (TABLE,)}, {"tied": "sign"}, "sign", "lmo", 2 / 16),
    ("output", (50, 16), {}, {}, "spectral", "lmo", 2 * math.sqrt(50 / 16)),
    ("embedding", (50, 16), {}, {}, "colnorm", "lmo", 2 * math.sqrt(16)),
    ("position", (50, 16), {}, {}, "colnorm", "lmo", 2 * math.sqrt(16)),
    ("gain", (16,), {}, {}, "rms", "lmo", 2.0),
]


@pytest.mark.parametrize(("role", "shape", "facts", "options", "norm", "rule", "scale"), CASES)
def test_each_row_has_its_norm_rule_and_scale(
    role: Any,
    shape: tuple[int, ...],
    facts: dict[str, Any],
    options: dict[str, Any],
    norm: str,
    rule: str,
    scale: float,
) -> None:
    gains: dict[str, Any] = {"mass": 1.0, "sensitivity": 2.0, "magnitude": 0.25}
    (row,) = plan_of([draft("w", shape, role, **gains, **facts)], "auto", **options).rows
    assert (row.norm, row.rule) == (norm, rule)
    assert row.target == pytest.approx(2.0)
    assert row.scale.value == pytest.approx(scale)


def test_neurons_of_spectral_steps_alone_are_evened_out() -> None:
    shapes: dict[str, tuple[int, ...]] = {"hidden": (8, 4), "embedding": (9, 4), "gain": (4,), "scalar": ()}
    gains: dict[str, Any] = {"mass": 1.0, "sensitivity": 1.0, "magnitude": 1.0}
    rows = [draft(role, shape, role, **gains) for role, shape in shapes.items()]  # type: ignore[arg-type]  # a Role
    generator = torch.Generator().manual_seed(0)
    grads = {role: torch.randn(shape, generator=generator) for role, shape in shapes.items()}
    ends = []
    for neurons in (False, True):
        named = {role: nn.Parameter(torch.ones(shape)) for role, shape in shapes.items()}
        opt = build(plan_of(rows, "auto", neurons=neurons), named.items(), lr=0.1, compile=False)
        for role, w in named.items():
            w.grad = grads[role].clone()
        opt.step()
        ends.append(named)
    assert [role for role in shapes if "neuron_moment" in opt.state[named[role]]] == ["hidden"]
    assert [role for role in shapes if not torch.equal(ends[0][role], ends[1][role])] == ["hidden"]


def test_positions_beside_a_tied_table_move_as_little_as_it_does() -> None:
    tied = draft("table", (50, 16), "output", uses=(TABLE,))
    beside, wider = draft("places", (8, 16), "position"), draft("others", (8, 32), "position")
    plan = plan_of([tied, beside, wider], "auto")
    assert plan["places"].scale.value == pytest.approx(plan["places"].target)
    assert plan["others"].scale.value == pytest.approx(plan["others"].target * math.sqrt(32))
    apart = plan_of([tied, beside], "auto", tied="sign")
    assert apart["places"].scale.value == pytest.approx(apart["places"].target * 4)


def test_tables_count_less_than_matrices_and_a_group_no_more_than_its_members() -> None:
    plan = normc.plan(made(), (tokens(0)[:, :-1],))
    masses = {row.name: row.mass or 0.0 for row in plan}
    total = 5 + 0.6 + 1
    assert masses["tok.weight"] == pytest.approx(0.3 / total)
    assert masses["pos.weight"] == pytest.approx(0.3 / total)
    assert masses["last.weight"] + masses["last.bias"] + masses["head.weight"] == pytest.approx(1 / total)
    assert plan.certificate().bound == pytest.approx(1.0)


class Tied(TinyGPT):
    """Its head is its table, and time is convolved."""

    def __init__(self) -> None:
        super().__init__(conv=True)
        self.head.weight = self.tok.weight


class Auto:
    """Nesterov's average, the row's unit step or Adam's direction, then the weights' decay."""

    def __init__(self, plan: NormPlan, model: nn.Module, lr: float, weight_decay: float) -> None:
        self.rows = [(plan[name], w) for name, w in model.named_parameters()]
        self.m = [torch.zeros_like(w) for _, w in self.rows]
        self.v = [torch.zeros_like(w) for _, w in self.rows]
        self.lr, self.weight_decay, self.t = lr, weight_decay, 0

    def direction(self, index: int, row: Row, g: Tensor) -> Tensor:
        m, v = self.m[index], self.v[index]
        m.copy_(0.9 * m + 0.1 * g)
        if row.rule == "adam":
            v.copy_(0.95 * v + 0.05 * g * g)
            return m / (1 - 0.9**self.t) / ((v / (1 - 0.95**self.t)).sqrt() + 1e-10)
        ahead = 0.9 * m + 0.1 * g
        if row.norm == "spectral":
            return polar(ahead.flatten(1).unsqueeze(0), polynomials("polar-express", 5))[0].view_as(g)
        size = ahead.norm(dim=1, keepdim=True) if row.norm == "colnorm" else ahead.square().mean().sqrt()
        return ahead / torch.where(size > 0, size, 1.0)

    @torch.no_grad()
    def step(self) -> None:
        self.t += 1
        for index, (row, w) in enumerate(self.rows):
            assert w.grad is not None
            moved = w - self.lr * row.scale.value * self.direction(index, row, w.grad)
            kept = row.role in ("gain", "state", "scalar")
            w.copy_(moved if kept else moved * (1 - self.lr * self.weight_decay * row.target))

    def zero_grad(self) -> None:
        for _, w in self.rows:
            w.grad = None


def test_weights_start_on_the_spheres_that_steps_are_measured_in() -> None:
    torch.manual_seed(0)
    model = Tied()
    plan = normc.plan(model, (tokens(0)[:, :-1],))
    saved = NormPlan.from_json(plan.to_json())
    assert normc.init_(model, saved) == ()
    assert torch.equal(model.tok.weight.abs(), torch.full_like(model.tok.weight, 0.25))
    torch.testing.assert_close(model.pos.weight.norm(dim=1), torch.ones(CONTEXT))
    assert model.conv is not None
    filters = model.conv.weight.flatten(1)
    torch.testing.assert_close(filters @ filters.mT, torch.eye(16) / 3, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [pytest.param(torch.float32, 1e-4, marks=pytest.mark.slow), (torch.float64, 1e-11)]
)
def test_fifty_steps_of_a_tied_model_have_their_closed_form(dtype: torch.dtype, tolerance: float) -> None:
    def plan_for(model: nn.Module) -> NormPlan:
        return normc.plan(model, (tokens(0)[:, :-1],))

    def mine(model: nn.Module) -> Any:
        named = model.named_parameters()
        return build(plan_for(model), named, lr=0.1, compile=False, backend="cpu:fp32")

    def theirs(model: nn.Module) -> Any:
        plan = plan_for(model)
        assert plan.recipe == "auto"
        assert plan["tok.weight"].rule == "adam"
        assert plan["conv.weight"].norm == "spectral"
        return Auto(plan, model, 0.1, 0.1)

    torch.manual_seed(0)
    model = Tied().to(dtype)
    apart, moved = difference(model, mine, theirs)
    assert apart < tolerance
    assert moved > 1e-3
