"""What was frozen when the plan was made, or not reached by its example, trains when it has a gradient."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normc
from normc.errors import NormcError
from normc.recipe.by_name import recipes
from normc.replanning import Source
from tests.optimizer.test_checkpoint import through_file
from tests.optimizer.test_export import imported
from tests.quick import others_slow

pytestmark = pytest.mark.usefixtures("updates_once")

RECIPES = (*recipes, "muon, output=adamw")
SEVERAL = ("adamw", "auto", "hyperball", "kl-soap", "modula", "muon", "muon, output=adamw", "scion-light", "shampoo")
X = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))


class Adapted(nn.Module):
    """A frozen layer with adapters, one of which is in use: as peft's set_adapter has it, only that one learns."""

    def __init__(self, names: str = "AB") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.base = nn.Linear(8, 8).requires_grad_(False)
        self.down = nn.ModuleDict({name: nn.Linear(8, 2, bias=False) for name in names})
        self.up = nn.ModuleDict({name: nn.Linear(2, 8, bias=False) for name in names})
        self.use("A")

    def adapter(self, name: str) -> Tensor:
        """Its last weight."""
        return self.get_parameter(f"up.{name}.weight")

    def use(self, chosen: str) -> None:
        """Switch the adapter."""
        self.chosen = chosen
        for name in self.down:
            self.down[name].requires_grad_(name == chosen)
            self.up[name].requires_grad_(name == chosen)

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, 8]."""
        return self.base(x) + self.up[self.chosen](self.down[self.chosen](x))


class Gated(nn.Module):
    """A branch that runs only for wide batches, or once its switch is on."""

    def __init__(self, on: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.on = on
        self.first, self.side, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, 8]."""
        h = torch.tanh(self.first(x))
        return self.last(h + torch.tanh(self.side(h)) if self.on or len(x) > 16 else h)


def compiled(model: nn.Module, recipe: str = "auto", **more: Any) -> normc.Optimizer:
    return normc.compile(model, X, lr=0.01, recipe=recipe, compile=False, **more)


def backward(model: nn.Module, x: Tensor = X) -> None:
    model.zero_grad()
    model(x).square().mean().backward()


def train(model: nn.Module, opt: normc.Optimizer, steps: int = 2, x: Tensor = X) -> None:
    for _ in range(steps):
        backward(model, x)
        opt.step()


def distance(now: Tensor, before: Tensor) -> float:
    return float((now.detach() - before).norm())


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_layer_that_was_frozen_trains_when_it_is_thawed(recipe: str) -> None:
    torch.manual_seed(0)
    first = nn.Linear(8, 8)
    model = nn.Sequential(first, nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    free = copy.deepcopy(model)
    before = first.weight.detach().clone()
    first.requires_grad_(False)
    opt, other = compiled(model, recipe), compiled(free, recipe)
    assert [(row.role, row.norm, row.rule) for row in opt.plan] == [(r.role, r.norm, r.rule) for r in other.plan]
    assert [row.name for row in opt.plan if row.frozen] == ["0.weight", "0.bias"]
    train(model, opt)
    assert torch.equal(first.weight, before)
    model.requires_grad_(True)
    train(model, opt)
    train(free, other)
    assert 0.3 < distance(first.weight, before) / distance(free.get_parameter("0.weight"), before) < 3


@pytest.mark.parametrize("recipe", others_slow(RECIPES, SEVERAL))
def test_a_second_adapter_trains_as_the_first_does(recipe: str) -> None:
    model = Adapted()
    opt = compiled(model, recipe)
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    assert {row.name for row in opt.plan.rows if row.role == "unused"} == {"down.B.weight", "up.B.weight"}
    moved = {}
    for chosen in "ABA":
        model.use(chosen)
        train(model, opt, 3)
        moved[chosen] = distance(model.adapter(chosen), before[f"up.{chosen}.weight"])
    assert distance(model.base.weight, before["base.weight"]) == 0
    assert moved["A"] > 0 and moved["B"] > moved["A"] / 6
    first, second = opt.plan["up.A.weight"], opt.plan["up.B.weight"]
    assert (first.role, first.norm, first.rule, first.target) == (second.role, second.norm, second.rule, second.target)


def test_all_others_keep_their_rows_states_and_groups() -> None:
    model = Adapted()
    opt = compiled(model, "muon")
    train(model, opt)
    group, row = opt.param_groups[0], opt.plan["up.A.weight"]
    momentum = opt.state[model.get_parameter("down.A.weight")]["momentum_buffer"]
    kept = momentum.clone()
    group["lr"] = 0.003
    model.use("B")
    train(model, opt, 1)
    assert opt.param_groups[0] is group and group["lr"] == 0.003
    assert opt.state[model.get_parameter("down.A.weight")]["momentum_buffer"] is momentum
    assert torch.equal(momentum, kept)
    assert opt.plan["up.A.weight"].target == row.target and opt.plan["up.A.weight"].frozen
    assert group["param_names"] == ["down.A.weight", "down.B.weight"]
    assert len({id(p) for g in opt.param_groups for p in g["params"]}) == 6
    assert opt.plan.certificate().masses == pytest.approx(1)
    assert any("planned again for down.B.weight, up.B.weight" in note for note in opt.plan.notes)
    assert not any("no gradient reaches" in note for note in opt.plan.notes)


def test_a_switch_that_flips_is_seen() -> None:
    model = Gated()
    opt = compiled(model)
    train(model, opt)
    model.on = True
    before = model.side.weight.detach().clone()
    train(model, opt)
    assert distance(model.side.weight, before) > 0
    assert opt.plan["side.weight"].role == "hidden"


def test_nothing_is_traced_again_where_nothing_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Gated()
    opt = compiled(model)

    def never(*_: Any) -> None:
        raise AssertionError("traced again")

    monkeypatch.setattr("normc.pipeline.trace", never)
    train(model, opt)
    model.side.weight.grad = torch.zeros(8, 8)  # as a host adds 0 times every parameter to the loss
    opt.step()


def test_an_example_that_doesn_t_reach_it_is_one_error_whose_advice_helps() -> None:
    model, wide = Gated(), torch.cat([X, X])
    opt = compiled(model)
    backward(model, wide)
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    with pytest.raises(NormcError, match=r"'side.bias' and 1 more has a gradient(?s:.*)opt.replan\(model, inputs\)"):
        opt.step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.named_parameters())
    plan = opt.replan(model, wide)
    assert plan is opt.plan and plan["side.weight"].role == "hidden"
    opt.step()
    assert distance(model.side.weight, before["side.weight"]) > 0
    train(model, opt, 2, wide)


@pytest.mark.parametrize("recipe", ["auto", "muon", "mup-adam", "lion"])
def test_what_no_trace_sees_is_admitted_and_trains(recipe: str) -> None:
    class Hidden(Gated):
        def forward(self, x: Tensor) -> Tensor:
            seen = torch.compiler.is_compiling() or type(x) is not Tensor
            return super().forward(x) if seen else super().forward(x) + self.side(x).mean()

    model = Hidden()
    opt = compiled(model, recipe)
    backward(model)
    with pytest.raises(NormcError, match="replan"):
        opt.step()
    before = model.side.weight.detach().clone()
    row = opt.replan(model, X)["side.weight"]
    assert (row.role, row.norm) == ("state", "sign") and "doesn't see how" in str(row.fallback)
    assert "FALLBACK" in opt.plan.text(120)
    train(model, opt)
    assert 0 < distance(model.side.weight, before) < 1
    strict = compiled(model, recipe)
    assert isinstance(strict.origin, Source)
    strict.origin = replace(strict.origin, request=replace(strict.origin.request, strict=True))
    backward(model)
    with pytest.raises(NormcError, match="doesn't see how"):
        strict.replan(model, X)


@pytest.mark.parametrize("how", ["copied", "pickled", "its model is gone"])
def test_without_a_model_the_error_says_what_to_do(how: str) -> None:
    model = Adapted()
    if how == "its model is gone":
        shell = nn.Sequential(model)
        opt = compiled(shell)
        gone = weakref.ref(shell)
        del shell
        gc.collect()
        assert gone() is None
        name = "0.down.B.weight"
        whole: nn.Module = nn.Sequential(model)
    else:
        opt = compiled(model)
        train(model, opt)
        pair = (model, opt)
        model, opt = copy.deepcopy(pair) if how == "copied" else pickle.loads(pickle.dumps(pair))
        name, whole = "down.B.weight", model
    model.use("B")
    backward(model)
    with pytest.raises(NormcError, match=rf"{name}(?s:.*)the optimizer is a copy, or its model is gone(?s:.*)replan"):
        opt.step()
    opt.replan(whole, X)
    before = model.adapter("B").detach().clone()
    opt.step()
    assert distance(model.adapter("B"), before) > 0


def test_a_plan_that_was_given_is_made_again_too() -> None:
    model = Adapted()
    plan = normc.NormPlan.from_json(normc.plan(model, X).to_json())
    opt = normc.compile(model, X, plan=plan, lr=0.01, compile=False)
    model.use("B")
    before = model.adapter("B").detach().clone()
    train(model, opt)
    assert distance(model.adapter("B"), before) > 0


@pytest.mark.parametrize("compiler", [None, "eager"])
def test_a_plan_of_the_first_forward_is_made_again(compiler: str | None) -> None:
    inner = Adapted()
    model: Any = inner if compiler is None else torch.compile(inner, backend=compiler)
    opt = normc.compile(model, lr=0.01, compile=False)
    before = inner.adapter("B").detach().clone()
    train(model, opt)
    inner.use("B")
    train(model, opt)
    assert distance(inner.adapter("B"), before) > 0


def test_overrides_and_tare_hold_for_what_comes_later() -> None:
    model = Adapted()
    asked: dict[str, Any] = {"overrides": {"up.*": {"scale": 0.5}, "down.A.*": "sign"}, "tare": {"down.*": 3.0}}
    opt = compiled(model, **asked)
    assert opt.plan["up.A.weight"].scale.value == 0.5
    model.use("B")
    train(model, opt)
    assert opt.plan["up.B.weight"].scale.value == 0.5
    assert opt.plan["down.B.weight"].mass == pytest.approx(3 / 5.5)
    assert opt.plan["down.A.weight"].norm == "sign"


def test_strict_refuses_what_requires_a_gradient_and_gets_none() -> None:
    with pytest.raises(NormcError, match=r"2 of 6 parameters get no gradient:(?s:.*)side\.weight(?s:.*)example_inputs"):
        normc.plan(Gated(), X, strict=True)
    with pytest.raises(NormcError, match="side"):
        compiled(Gated(), strict=True)
    with pytest.raises(NormcError, match="side"):
        normc.compile(Gated(), X, plan=normc.plan(Gated(), X), lr=0.1, strict=True)
    assert normc.plan(Gated(), torch.cat([X, X]), strict=True)
    model = Adapted()
    opt = compiled(model, strict=True)  # what isn't reached doesn't ask for a gradient
    model.use("B")
    train(model, opt)


def test_a_checkpoint_of_either_adapter_loads_into_a_new_optimizer() -> None:
    model = Adapted()
    opt = compiled(model, "muon")
    for chosen in "AB":
        model.use(chosen)
        train(model, opt)
    saved, at = through_file(opt.state_dict()), copy.deepcopy(model.state_dict())
    for chosen in "AB":
        again = Adapted()
        again.use(chosen)
        other = compiled(again, "muon")
        other.load_state_dict(copy.deepcopy(saved))
        again.load_state_dict(at)
        twin, ours = copy.deepcopy((model, opt)) if chosen == "B" else (None, None)
        again.use("B")
        train(again, other, 1)
        if twin is not None and ours is not None:
            train(twin, ours, 1)
            assert torch.equal(twin.adapter("B"), again.adapter("B"))
    with pytest.raises(NormcError, match="written under plan"):
        compiled(Adapted(), "scion").load_state_dict(saved)


def test_an_exported_update_refuses_a_gradient_that_it_knows_nothing_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Adapted()
    module = imported(normc.export(compiled(model), tmp_path / "update.py"), monkeypatch)
    opt = module.Optimizer(model.named_parameters(), lr=0.01, compile=False)
    train(model, opt)
    model.use("B")
    backward(model)
    with pytest.raises(RuntimeError, match=r"down\.B\.weight(?s:.*)export a plan"):
        opt.step()


def test_the_example_is_kept_only_where_something_is_unused() -> None:
    opt = compiled(Gated(on=True))
    assert isinstance(opt.origin, Source) and opt.origin.inputs is None
    opt = compiled(Gated())
    assert isinstance(opt.origin, Source) and opt.origin.inputs is not None
    model = Gated()
    opt = compiled(model)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
