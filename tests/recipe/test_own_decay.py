"""A row's own share of weight decay: none, a half, twice, in every recipe, in kernels, in files."""

from __future__ import annotations

import copy
import pickle
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normc
from normc.cli import main
from normc.compiler import build
from normc.errors import NormcError
from normc.plans.plan import NormPlan
from normc.plans.row import Row
from normc.recipe.by_name import recipes
from normc.update.kernels import cost, normalise
from normc.update.program.module import load
from normc.update.runtime import faults
from tests.handmade import Small, plan_of, small_rows
from tests.quick import others_slow
from tests.ties import ROTATING

# Of hyperball's spheres and scion-light's steps no weight is decayed, whatever the group's value.
IDLE = ("hyperball", "scion-light")
DECAYING = [name for name in recipes if name not in IDLE and "weight_decay" in recipes[name].defaults[0]]
QUICK = ("adamw", "muon", "auto", "soap", "muown", "sgd", "lion")
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in DECAYING),
    *(("lion", {"decay": kind}) for kind in ("independent", "cautious")),
]
# Of three matrices in one stack one keeps its decay, one has half of it, one none; so have a table and a vector.
OWN = {"down.0.weight": 0.5, "down.1.weight": 0.0, "up.1.weight": 2.0, "embed.weight": 0.5, "head.weight": 0.0}


def shared(plan: NormPlan) -> NormPlan:
    for name, factor in OWN.items():
        plan = plan.override(name, weight_decay=factor)
    return plan


def stepped(plan: NormPlan, decay: float, backend: str = "cpu:fp32", steps: int = 3, **how: Any) -> dict[str, Tensor]:
    """The weights of `Small` after steps on random gradients, by name."""
    torch.manual_seed(0)
    model = Small()
    opt = build(plan, model.named_parameters(), lr=0.02, backend=backend, compile=False, weight_decay=decay, **how)
    for seed in range(steps):
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        opt.step()
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize(
    ("recipe", "options"),
    [case if case[0] in QUICK else pytest.param(*case, marks=pytest.mark.slow) for case in OPTIONS],
)
def test_a_share_of_the_decay_is_the_step_of_a_group_with_that_decay(recipe: str, options: dict[str, Any]) -> None:
    plan = plan_of(small_rows(Small()), recipe, **options)
    own = shared(plan)
    for backend in ("cpu:fp32", "reference"):
        alone = {factor: stepped(plan, 0.3 * factor, backend) for factor in (0.0, 0.5, 1.0, 2.0)}
        found = stepped(own, 0.3, backend)
        for name, weight in found.items():
            torch.testing.assert_close(weight, alone[own[name].decay][name], rtol=1e-5, atol=1e-6)
    decayed = [name for name in OWN if not torch.equal(alone[1.0][name], alone[OWN[name]][name])]
    assert decayed, "no row of these is decayed at all"


@pytest.mark.parametrize("recipe", others_slow([name for name in DECAYING if name not in ROTATING], ("muon",)))
def test_shares_of_one_stack_are_numbers_of_its_kernels(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    from tests.update.kernels.interpreting import interpret

    interpret(monkeypatch, normalise, faults)
    monkeypatch.setattr(cost, "LARGEST", 0)
    load.cache_clear()
    plan = plan_of(small_rows(Small()), recipe)
    own = shared(plan)
    fused, plain = stepped(own, 0.3, "cuda:sm_70"), stepped(own, 0.3, "reference")
    load.cache_clear()
    for name, weight in fused.items():
        torch.testing.assert_close(weight, plain[name], rtol=1e-4, atol=1e-4)


def test_checkpoints_go_from_one_share_to_another() -> None:
    """No state depends on it: the plan that loads says what is decayed."""
    plan = plan_of(small_rows(Small()), "adamw")
    model = Small()
    opts = [build(own, model.named_parameters(), lr=0.02, compile=False) for own in (plan, shared(plan))]
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    opts[1].step()
    for here, there in (opts, opts[::-1]):
        here.load_state_dict(copy.deepcopy(there.state_dict()))
        assert here.plan["head.weight"].decay == (1.0 if here is opts[0] else 0.0)


def test_a_plan_says_it_only_where_it_is_another() -> None:
    plan = plan_of(small_rows(Small()), "adamw")
    same = plan.override("*", weight_decay=1)
    assert '"decay"' not in same.to_json()
    assert (same.hash, same.checksum) == (plan.hash, plan.checksum)
    own = shared(plan)
    assert NormPlan.from_json(own.to_json()) == own
    assert own.hash != plan.hash
    assert own.override("*", weight_decay=1).hash == plan.hash
    changes = {change.name: change.fields for change in plan.diff(own)}
    assert changes == {name: (("decay", 1.0, factor),) for name, factor in OWN.items()}
    assert {change.name: change.fields for change in own.diff(plan)} == {
        name: (("decay", factor, 1.0),) for name, factor in OWN.items()
    }
    text = own.text(200)
    assert "weight decay  none: 2 tensors" in text
    assert "0.5 times the group's: 2 tensors" in text
    assert "weight decay" not in plan.text(200)
    assert "weight decay  2 times the group's" in own.explain("up.1.weight", 200)
    for word in ("-1", "1e400", '"no"', "null"):
        with pytest.raises(NormcError, match=r"(?s)embed\.weight.*decay"):
            NormPlan.from_json(own.to_json().replace('"decay": 0.5', f'"decay": {word}', 1))


def test_a_row_out_of_an_old_pickle_has_the_groups_decay() -> None:
    row = plan_of(small_rows(Small()), "adamw").rows[0]
    assert fields(Row)[-1].name == "decay"
    old = Row.__new__(Row)
    old.__setstate__([getattr(row, item.name) for item in fields(Row)[:-1]])
    assert old == row
    assert pickle.loads(pickle.dumps(row)) == row


def test_a_recipe_that_decays_nothing_refuses_a_share() -> None:
    rows = small_rows(Small())
    for recipe, name, factor in (
        ("scion", "head.weight", 0.0), ("scion-light", "head.weight", 0.5), ("hyperball", "up.0.weight", 0.5),
        ("auto", "norm.0.weight", 2.0),
    ):  # fmt: skip
        plan = plan_of(rows, recipe).override(name, weight_decay=factor)
        with pytest.raises(NormcError, match=rf"{name} is to have {factor:g} times[^$]*fix: leave weight_decay out"):
            build(plan, Small().named_parameters(), lr=0.1, compile=False)
    build(plan_of(rows, "auto").override("norm.*", weight_decay=0), Small().named_parameters(), compile=False)


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "0", True])
def test_a_factor_that_is_none_is_refused(value: Any) -> None:
    plan = plan_of(small_rows(Small()), "adamw")
    with pytest.raises(NormcError, match=r"the weight_decay in the override of '\*'"):
        plan.override("*", weight_decay=value)


def test_what_never_moves_may_have_none() -> None:
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(3, 3), nn.Parameter(torch.zeros(3, 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    plan = normc.plan(Beside(), torch.zeros(2, 3), recipe="adamw")
    assert plan.override("unused", weight_decay=0) == plan
    with pytest.raises(NormcError, match="nothing can be chosen"):
        plan.override("unused", weight_decay=0.5)


def test_the_command_line_takes_it(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.json"
    path.write_text(plan_of(small_rows(Small()), "adamw").to_json())
    assert main(["plan", str(path), "--override", "norm.*:weight_decay=0", "--width", "160"]) == 0
    assert "weight decay  none: 6 tensors" in capsys.readouterr().out
    assert main(["plan", str(path), "--override", "norm.*:weight_decay=x"]) == 2
    assert "is no number" in capsys.readouterr().err
