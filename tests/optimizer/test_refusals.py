"""What a step refuses, it refuses before anything has moved; what is known when the optimizer is made, it says then."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normc
from normc.compiler import build
from normc.errors import NormcError
from normc.pipeline import update_of
from normc.recipe.by_name import recipes
from tests.handmade import Small, loss_of, plan_of, small_rows

pytestmark = pytest.mark.usefixtures("updates_once")

CPU: dict[str, Any] = {"backend": "cpu:fp32", "compile": False}
X = torch.zeros(2, 6)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))


class Functional(nn.Module):
    """A lookup that only its op says is sparse."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Parameter(torch.randn(9, 8)), nn.Linear(8, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(nn.functional.embedding(ids, self.table, sparse=True))


SPARSE: dict[str, Callable[[], nn.Module]] = {
    "0.weight": lambda: nn.Sequential(nn.Embedding(9, 8, sparse=True), nn.Linear(8, 3)),
    "0.weight of a bag": lambda: nn.Sequential(nn.EmbeddingBag(9, 8, sparse=True), nn.Linear(8, 3)),
    "table": Functional,
}


@pytest.mark.parametrize("name", SPARSE)
def test_gradients_that_will_be_sparse_are_refused_when_the_optimizer_is_made(name: str) -> None:
    model, ids = SPARSE[name](), torch.zeros(4, 5, dtype=torch.long)
    with pytest.raises(NormcError, match=f"'{name.split()[0]}' will be sparse"):
        normc.compile(model, ids, lr=0.1, **CPU)
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.shape != (9, 8))
    normc.compile(model, ids, lr=0.1, **CPU)  # frozen, it has no gradient


def test_complex_parameters_are_refused_when_the_optimizer_is_made() -> None:
    model, plan = net(), normc.plan(net(), X)
    model[2].weight = nn.Parameter(torch.zeros(8, 8, dtype=torch.complex64))
    with pytest.raises(NormcError, match=r"'2.weight' is complex"):
        build(plan, model.named_parameters(), lr=0.1)


def sparse(parameter: nn.Parameter) -> None:
    assert parameter.grad is not None
    parameter.grad = parameter.grad.to_sparse()


def other_shape(parameter: nn.Parameter) -> None:
    parameter.grad = None
    parameter.data = torch.zeros(3, *parameter.shape)
    parameter.grad = torch.zeros_like(parameter)


@pytest.mark.parametrize("spoil", [sparse, other_shape])
@pytest.mark.parametrize("recipe", list(recipes))
@pytest.mark.parametrize("name", ["embed.weight", "head.weight", "norm.2.bias"])
def test_a_refused_step_has_moved_nothing(recipe: str, spoil: Callable[[nn.Parameter], None], name: str) -> None:
    torch.manual_seed(0)
    model = Small(width=4, layers=3)
    opt = build(plan_of(small_rows(model), recipe), model.named_parameters(), lr=0.1, compile=False)
    loss_of(model, 0).backward()
    opt.step()
    loss_of(model, 1).backward()
    spoil(model.get_parameter(name))
    before = copy.deepcopy((list(model.parameters()), list(opt.state.values())))
    with pytest.raises(NormcError, match=name):
        opt.step()
    assert all(map(torch.equal, model.parameters(), before[0]))
    for own, kept in zip(opt.state.values(), before[1], strict=True):
        assert all(torch.equal(own[key], kept[key]) for key in kept)


@pytest.mark.parametrize("recipe", ["auto", "muon", "scion", "normuon", "soap", "shampoo", "modula"])
def test_a_step_within_autocast_is_the_same_step(recipe: str) -> None:
    ours, plain = net(), net()
    opts = [normc.compile(model, X, lr=0.02, recipe=recipe, **CPU) for model in (ours, plain)]
    x = torch.randn(16, 6)

    def closure(model: nn.Module) -> Tensor:
        model.zero_grad()
        loss: Tensor = model(x).float().square().mean()
        assert torch.is_autocast_enabled("cpu")
        loss.backward()
        return loss

    for _ in range(3):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            closure(plain)
            opts[0].step(lambda: closure(ours))
            assert torch.is_autocast_enabled("cpu")
        opts[1].step()
    assert all(map(torch.equal, ours.parameters(), plain.parameters()))


NUMBERS: list[tuple[str, dict[str, Any]]] = [
    ("adamw", {"beta2": 1.0}), ("adamw", {"beta2": 1.5}), ("adamw", {"momentum": 1.0}), ("adamw", {"eps": -1.0}),
    ("adamw", {"weight_decay": -1.0}), ("muon", {"momentum": float("nan")}), ("muon", {"beta2": 1.0}),
    ("soap", {"beta2": 1.5}), ("lion", {"beta2": 2.0}), ("modular-dual", {"momentum": -3.0}),
    ("shampoo", {"beta2": 1.5}), ("sgd", {"weight_decay": float("nan")}), ("sgd", {"momentum": True}),
    ("sgd", {"momentum": "0.9"}), ("sgd", {"lr": float("nan")}), ("sgd", {"lr": -0.1}), ("sgd", {"lr": float("inf")}),
    ("sgd", {"lr": "0.1"}), ("adamw", {"eps": (1e-8, -1e-8)}),
]  # fmt: skip


@pytest.mark.parametrize(("recipe", "given"), NUMBERS, ids=lambda value: str(value))
def test_numbers_that_no_rule_can_mean_are_refused(recipe: str, given: dict[str, Any]) -> None:
    with pytest.raises(NormcError, match=f"^{next(iter(given))} is .*\n  fix: give a"):
        normc.compile(net(), X, recipe=recipe, **CPU, **{"lr": 0.01, **given})


def test_whole_numbers_of_steps_are_whole() -> None:
    with pytest.raises(NormcError, match=r"ns_steps .* can't be 2.5"):
        normc.plan(net(), X, recipe="muon", options={"ns_steps": 2.5})


QUIET = ("foreach", "maximize", "fused", "capturable", "differentiable", "amsgrad")


@pytest.mark.parametrize("recipe", list(recipes))
@pytest.mark.parametrize("value", [None, False])
def test_options_of_torch_that_ask_for_nothing_pass(recipe: str, value: Any) -> None:
    model = Small()
    asked: dict[str, Any] = dict.fromkeys(QUIET, value)
    build(plan_of(small_rows(model), recipe), model.named_parameters(), lr=0.1, **asked)


@pytest.mark.parametrize("name", QUIET)
def test_options_of_torch_that_ask_for_something_are_refused(name: str) -> None:
    with pytest.raises(NormcError, match=f"no option '{name}'\n  fix: .{{9}}"):
        normc.compile(net(), X, lr=0.1, **{**CPU, name: True})


@pytest.mark.parametrize("recipe", list(recipes))
def test_a_value_that_nothing_reads_is_refused(recipe: str) -> None:
    plan = plan_of(small_rows(Small()), recipe)
    update = update_of(plan).update
    names = dict.fromkeys(name for defaults in update.defaults for name in defaults)
    for name in names:
        model = Small()
        other = 0.25 if any(defaults.get(name) != 0.25 for defaults in update.defaults) else 0.5
        given: dict[str, Any] = {name: other}
        if any(name in reads for reads in update.reads):
            build(plan, model.named_parameters(), lr=0.1, **given)
            continue
        with pytest.raises(NormcError, match=f"reads {name}"):
            build(plan, model.named_parameters(), lr=0.1, **given)
        own: dict[str, Any] = {name: tuple(defaults[name] for defaults in update.defaults)}
        build(plan, model.named_parameters(), lr=0.1, **own)


def test_a_decay_that_a_constrained_recipe_has_no_use_for_is_refused() -> None:
    with pytest.raises(NormcError, match=r"scion-light reads weight_decay, which is 10\.0"):
        normc.compile(net(), X, lr=0.01, recipe="scion-light", weight_decay=10.0)
    opt = normc.compile(net(), X, lr=0.01, recipe="scion-light", weight_decay=10.0, options={"constrained": False})
    assert opt.param_groups[0]["weight_decay"] == 10.0


def test_a_deferred_plan_refuses_what_it_does_not_read() -> None:
    model = net()
    opt = normc.compile(model, lr=0.01, recipe="scion-light", weight_decay=10.0)
    with pytest.raises(NormcError, match="reads weight_decay"):
        model(X)
    with pytest.raises(NormcError, match="before the plan is known"):
        opt.step()
