"""The recipes of masses: the norm of each role, the certificate, and what overrides, tare and lost gains do to it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normc
from normc.cli import main
from normc.compiler import build
from normc.errors import NormcError
from normc.plans.plan import NormPlan
from normc.plans.row import Block, Use
from normc.recipe.by_name import recipes
from tests.handmade import Small, draft, finish, loss_of, plan_of, small_rows, train
from tests.quick import others_slow
from tests.recipe.modula import nets
from tests.zoo.kinds import KINDS
from tests.zoo.models import CASES

RECIPES = ["modula", "modular-dual"]
TOKENS = torch.randint(0, 65, (2, 16), generator=torch.Generator().manual_seed(0))

# Role, shape, norm, and the scale for mass 1, sensitivity 2 and magnitude 0.25.
EXPECTED = [
    ("input", (16, 64), "spectral", 2 * math.sqrt(16 / 64)),
    ("hidden", (64, 16), "spectral", 2 * math.sqrt(64 / 16)),
    ("hidden", (8, 4, 3, 3), "slices", 2 * math.sqrt(8 / 4) / 9),
    ("hidden", (8, 4, 1, 1), "spectral", 2 * math.sqrt(8 / 4)),
    ("output", (50, 16), "spectral", 2 * math.sqrt(50 / 16)),
    ("router", (4, 16), "spectral", 2 * math.sqrt(4 / 16)),
    ("embedding", (50, 16), "colnorm", 2 * math.sqrt(16)),
    ("position", (50, 16), "colnorm", 2 * math.sqrt(16)),
    ("gain", (16,), "rms", 2.0),
    ("bias", (16,), "rms", 2.0),
    ("token", (1, 1, 16), "rms", 2.0),
    ("state", (16, 4), "sign", 2.0),
    ("scalar", (), "sign", 2.0),
]


@pytest.mark.parametrize(("role", "shape", "norm", "scale"), EXPECTED)
@pytest.mark.parametrize("recipe", RECIPES)
def test_each_role_has_its_norm_and_its_target(
    recipe: str, role: Any, shape: tuple[int, ...], norm: str, scale: float
) -> None:
    facts: dict[str, Any] = {"mass": 1.0, "sensitivity": 2.0, "magnitude": 0.25}
    facts |= {"kernel_axes": (2, 3)} if len(shape) == 4 else {}
    (row,) = plan_of([draft("w", shape, role, **facts)], recipe).rows
    assert row.norm == norm
    assert row.target == pytest.approx(2.0)
    assert row.scale.value == pytest.approx(scale)


def test_tied_depthwise_fallback_and_massless_rows() -> None:
    use = Use("embedding", "aten.embedding", "", "", ("index", "out"))
    depthwise: dict[str, Any] = {"block_axes": (0,), "out_axes": (), "in_axes": (1,), "kernel_axes": (2, 3)}
    rows = [
        draft("tied", (50, 16), "output", uses=(use,)), draft("filter", (8, 1, 3, 3), "depthwise", **depthwise),
        draft("lost", (8, 32), "hidden", fallback="unknown op"), draft("still", (4, 4), "hidden", mass=0.0),
        draft("dead", (4,), "unused"),
    ]  # fmt: skip
    plan = plan_of(rows, "modular-dual")
    assert [row.norm for row in plan] == ["sign", "rownorm", "sign", "spectral", "sign"]
    assert [row.scale.value for row in plan][:3] == pytest.approx([1 / 16, 1 / 3, 1 / 32])
    assert [row.rule for row in plan] == ["lmo", "lmo", "lmo", "none", "none"]


class Unknown(nn.Module):
    """An op that can't be tried out lies behind the first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nets.linear(16, 16), nets.linear(16, 16)
        self.last = nets.linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, 16]."""
        out: Tensor = self.last(3.0 * self.second(torch.linalg.cholesky(self.first(x))))
        return out


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_row_of_unknown_gain_counts_with_the_largest_known_one(recipe: str) -> None:
    plan = normc.plan(Unknown(), torch.randn(16, 16), recipe=recipe, options={"gains": "sharp"})
    assert plan["first.weight"].sensitivity is None
    assert plan["second.weight"].sensitivity == pytest.approx(3.0)
    assert plan["first.weight"].target == pytest.approx(1 / 9)
    (reason,) = [e.reason for e in plan["first.weight"].evidence if e.fact == "scale"]
    assert "largest known gain: its own isn't known" in reason
    certified(plan)
    assert plan.certificate().assumed == ("first.weight",)


def test_a_gain_of_next_to_nothing_makes_no_giant_step() -> None:
    rows = [
        draft(name, (4, 4), "hidden", mass=0.5, sensitivity=gain, magnitude=1.0)
        for name, gain in (("a", 0.5), ("b", 1e-40))
    ]
    plan = plan_of(rows, "modular-dual")
    assert [row.target for row in plan] == [1.0, 1.0]
    certified(plan)
    assert plan.certificate().assumed == ("b",)


def certified(plan: NormPlan) -> None:
    found = plan.certificate()
    assert found.masses == pytest.approx(1.0, abs=1e-9)
    assert found.bound == pytest.approx(1.0, abs=1e-9)
    assert all(row.target > 0 for row in plan if row.mass)


def learning(plan: NormPlan) -> list[str]:
    return [row.name for row in plan if row.mass]


@pytest.mark.parametrize("name", others_slow(sorted(CASES), KINDS))
def test_the_zoo_is_certified_also_after_overrides(name: str) -> None:
    case, number = CASES[name], sum(map(ord, name))
    gains, recipe = ["average", "sharp", "modula"][number % 3], RECIPES[number % 2]
    plan = normc.plan(case.build(), case.inputs(), recipe=recipe, options={"gains": gains})
    certified(plan)
    names = learning(plan)
    if len(names) < 3:
        return
    given = plan.override(names[0], mass=0.25)
    certified(given)
    assert given[names[0]].mass == 0.25
    assert given[names[1]].scale.value / given[names[1]].target == pytest.approx(
        plan[names[1]].scale.value / plan[names[1]].target
    )
    frozen = given.override(names[1], mass=0)
    certified(frozen)
    assert frozen[names[1]].frozen and frozen[names[1]].rule == "none"
    assert NormPlan.from_json(frozen.to_json()).hash == frozen.hash
    certified(frozen.override(names[2], norm="sign"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_tare_sets_the_masses_of_a_group_and_zero_freezes_it(recipe: str) -> None:
    model = nets.GPT(65, 16, 2, 16, 8, 8, 2)
    options = {"position_mass": 1.0}
    plan = normc.plan(model, TOKENS, recipe=recipe, options=options, tare={"head.*": 3.0, "tok.*": 0.0})
    certified(plan)
    assert plan["head.weight"].mass == pytest.approx(3.0 / 8.5)
    assert (plan["tok.weight"].mass, plan["tok.weight"].rule, plan["tok.weight"].frozen) == (0.0, "none", True)
    opt = build(plan, model.named_parameters(), lr=0.1, compile=False)
    before = model.tok.weight.detach().clone()
    model(TOKENS).square().mean().backward()
    opt.step()
    assert torch.equal(before, model.tok.weight.detach())
    with pytest.raises(NormcError, match="no parameter is called"):
        normc.plan(model, TOKENS, recipe=recipe, tare={"nothing": 1.0})
    with pytest.raises(NormcError, match="nothing would learn"):
        normc.plan(model, TOKENS, recipe=recipe, tare={"*": 0.0})


def test_tare_freezes_under_any_recipe() -> None:
    plan = normc.plan(nets.GPT(65, 16, 2, 16, 8, 8, 2), TOKENS, recipe="scion", tare={"head.*": 0.0})
    assert (plan["head.weight"].rule, plan["head.weight"].frozen, plan["head.weight"].state_bytes) == ("none", True, 0)


def test_masses_that_leave_nothing_are_refused() -> None:
    plan = normc.plan(nets.MLP(3, "relu"), torch.randn(2, 16), recipe="modula")
    with pytest.raises(NormcError, match="leave nothing"):
        plan.override("layers.[01].*", mass=0.5)
    with pytest.raises(NormcError, match="nothing would learn"):
        plan.override("*", mass=0)
    with pytest.raises(NormcError, match="don't sum to one"):
        plan.override("*", mass=0.1)
    certified(plan.override("*", mass=1 / 3))
    with pytest.raises(NormcError, match="no share of anything"):
        plan.override("layers.0.*", mass=0).override("layers.0.*", mass=0.2)


def test_tare_on_the_command_line(tmp_path: Any, capsys: pytest.CaptureFixture) -> None:
    factory = tmp_path / "net.py"
    factory.write_text(
        "import torch\nfrom torch import nn\n\n\ndef make():\n"
        "    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(2, 4)\n"
    )
    target, saved = f"{factory}:make", str(tmp_path / "plan.json")
    assert main(["plan", target, "--recipe", "modula", "--tare", "0.*=3", "--tare", "2.bias=0", "--json", saved]) == 0
    plan = NormPlan.from_json((tmp_path / "plan.json").read_text())
    certified(plan)
    assert plan["2.bias"].frozen
    assert math.fsum(plan[name].mass or 0 for name in ("0.weight", "0.bias")) == pytest.approx(3 / (3 + 5 / 2.2))
    capsys.readouterr()
    for arguments in ([target, "--tare", "0.*"], [target, "--tare", "0.*=much"], [saved, "--tare", "0.*=1"]):
        assert main(["plan", *arguments]) == 2
    assert "is no tare" in capsys.readouterr().err


@pytest.mark.parametrize("gains", ["average", "sharp", "modula"])
def test_gains_are_an_option(gains: str) -> None:
    plan = normc.plan(nets.MLP(2, "relu"), torch.randn(2, 16), recipe="modula", options={"gains": gains})
    # With tracked sizes the output is of RMS 1 / sqrt(2), which is then the unit of its change.
    slope = {"average": 1.0, "modula": 0.5**0.5, "sharp": 1.0}[gains]
    size = 1.0
    assert plan["layers.0.weight"].target == pytest.approx(0.5 / slope, rel=1e-6)
    assert plan["layers.1.weight"].target == pytest.approx(0.5 / size, rel=1e-6)
    with pytest.raises(NormcError, match="option gains"):
        normc.plan(nets.MLP(2, "relu"), torch.randn(2, 16), recipe="modula", options={"gains": "none"})


def test_power_iteration_finds_the_norm_and_stays_between_steps() -> None:
    """On one gradient again and again, the step's norm becomes the target's; at first it is a little larger."""
    w = nn.Parameter(torch.zeros(12, 8))
    opt = build(plan_of([draft("w", (12, 8), "hidden")], "modula"), [("w", w)], lr=1.0, compile=False)
    grad = torch.randn(12, 8, generator=torch.Generator().manual_seed(0))
    norms = []
    for _ in range(60):
        before = w.detach().clone()
        w.grad = grad.clone()
        opt.step()
        step = before - w.detach()
        torch.testing.assert_close(step / step.norm(), grad / grad.norm(), atol=1e-5, rtol=1e-3)
        norms.append(float(torch.linalg.matrix_norm(step, 2)) / math.sqrt(12 / 8))
    assert 1.0 - 1e-4 < norms[0] < 3.0
    assert norms[-1] == pytest.approx(1.0, abs=1e-4)
    assert opt.state[w]["singular_vector"].shape == (1, 8)


def test_state_bytes_are_what_a_step_keeps() -> None:
    blocks = (Block("a", 0, ((0, 5),)), Block("b", 0, ((5, 12),)))
    rows = [
        draft("plain", (6, 4), "hidden"), draft("fused", (12, 4), "hidden", blocks=blocks),
        draft("conv", (6, 4, 3, 3), "hidden", kernel_axes=(2, 3)), draft("table", (9, 4), "embedding"),
        draft("experts", (3, 5, 4), "hidden", block_axes=(0,), in_axes=(1,), out_axes=(2,)), draft("b", (6,), "bias"),
    ]  # fmt: skip
    for recipe in RECIPES:
        plan = plan_of(rows, recipe)
        named = {row.name: nn.Parameter(torch.randn(row.shape)) for row in plan}
        opt = build(plan, named.items(), lr=0.1, compile=False)
        for parameter in named.values():
            parameter.grad = torch.randn(parameter.shape)
        opt.step()
        for row in plan:
            held = sum(value.numel() * value.element_size() for value in opt.state[named[row.name]].values())
            assert held == row.state_bytes, row.name


def test_weight_decay_caps_the_norm_and_embeddings_may_be_projected() -> None:
    torch.manual_seed(0)
    model = Small()
    plan = finish(small_rows(model), recipes["modula"].configure(project_embeddings=True))
    opt = build(plan, model.named_parameters(), lr=0.5, weight_decay=0.5, compile=False)
    train(model, [opt], 30)
    rows = model.embed.weight.detach().square().mean(1).sqrt()
    torch.testing.assert_close(rows, torch.ones_like(rows))
    for layer in model.down:
        assert isinstance(layer, nn.Linear)
        assert float(torch.linalg.matrix_norm(layer.weight.detach(), 2)) < 1.2 * math.sqrt(16 / 32) / 0.5
    assert math.isfinite(float(loss_of(model, 0).detach()))
