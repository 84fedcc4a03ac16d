"""What `opt.metrics` says of a step, against what is computed by hand from the weights around it."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from torch import nn

import normc
from normc import metrics
from normc.compiler import build, defer
from normc.errors import NormcError
from normc.metrics import Meter, ball_of, largest_singular
from normc.optimizer import Optimizer
from normc.plans.row import Block
from normc.recipe.by_name import recipe_of, recipes
from tests.handmade import Small, draft, loss_of, plan_of, small_rows, train

pytestmark = pytest.mark.usefixtures("updates_once")


def made(recipe: str = "scion", **options: Any) -> tuple[Small, Optimizer]:
    torch.manual_seed(0)
    model = Small()
    given = {"lr": 1e-2, "compile": False} | options
    return model, build(plan_of(small_rows(model), recipe), model.named_parameters(), **given)


def around(model: nn.Module, opt: Optimizer, seed: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Weights before and after one step."""
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    train(model, [opt], 1, seed)
    return before, {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("recipe", list(recipes))
def test_sizes_of_updates_are_those_of_the_weights_around_a_step(recipe: str) -> None:
    model, opt = made(recipe)
    assert opt.metrics(every=1) == {}
    around(model, opt, 0)
    before, after = around(model, opt, 1)
    found = opt.metrics()
    for name in before:
        moved = (after[name] - before[name]).double()
        assert found[f"normc/{name}/update_rms"] == pytest.approx(float(moved.square().mean().sqrt()), rel=1e-5)
        assert found[f"normc/{name}/grad_nonfinite"] == 0.0
        if moved.dim() == 2:
            largest = float(torch.linalg.matrix_norm(moved, 2))
            assert 0.9 * largest <= found[f"normc/{name}/update_spectral"] <= largest * (1 + 1e-5)
    assert all(type(key) is str and type(value) is float for key, value in found.items())


def test_a_measured_run_is_the_run_and_a_compiled_step_is_measured_alike() -> None:
    runs = []
    for compiled, every in ((False, None), (False, 1), (True, 2)):
        model, opt = made("scion", compile=compiled)
        if every is not None:
            opt.metrics(every=every)
        train(model, [opt], 2)
        runs.append((torch.cat([own.detach().flatten() for own in model.parameters()]), opt))
    assert torch.equal(runs[0][0], runs[1][0])
    eager, compiled_numbers = (opt.metrics() for _, opt in runs[1:])
    assert eager.keys() == compiled_numbers.keys()
    for key, value in eager.items():
        assert compiled_numbers[key] == pytest.approx(value, rel=1e-3), key


def test_it_measures_each_kth_step_and_keeps_the_numbers_in_between() -> None:
    model, opt = made()
    opt.metrics(every=3)
    train(model, [opt], 2)
    assert opt.metrics() == {}
    before, after = around(model, opt, 2)
    first = opt.metrics(every=3)
    own = float((after["head.weight"] - before["head.weight"]).square().mean().sqrt())
    assert first["normc/head.weight/update_rms"] == pytest.approx(own, rel=1e-5)
    train(model, [opt], 2, 3)
    assert opt.metrics() == first
    train(model, [opt], 1, 5)
    assert opt.metrics() != first
    assert opt.metrics(every=0) == {}
    with pytest.raises(NormcError, match=r"opt\.metrics\(every=100\)"):
        opt.metrics()


def test_a_step_reads_nothing_from_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    for name in ("item", "tolist", "__float__", "__bool__", "cpu"):
        monkeypatch.setattr(torch.Tensor, name, lambda self, own=name: read.append(own))
    meter, parameter = Meter(1), nn.Parameter(torch.ones(4, 3))
    parameter.grad = torch.ones(4, 3)
    plan = plan_of([draft("w", (4, 3), "hidden")], "uscion")
    meter.before({"w": parameter})
    meter.after(plan, {"w": parameter}, {"w": {"lr": 0.1, "weight_decay": 0.1}})
    assert read == []


def test_weights_are_copied_a_few_at_a_time() -> None:
    model, opt = made()
    opt.metrics(every=1)
    opt._meter = Meter(1, copied=1)  # each tensor is larger than that
    number = len(list(model.parameters()))
    for seen in range(1, number + 1):
        train(model, [opt], 1, seen)
        assert len({key.rsplit("/", 1)[0] for key in opt.metrics()}) == seen
    train(model, [opt], 1, number)
    assert len({key.rsplit("/", 1)[0] for key in opt.metrics()}) == number


@pytest.mark.parametrize(
    ("recipe", "options", "values", "radius"),
    [
        ("scion", {}, {}, "scale"),
        ("uscion", {}, {"weight_decay": 0.5}, "scale / decay"),
        ("uscion", {"decay": "independent"}, {"weight_decay": 0.5}, "lr scale / decay"),
        ("uscion", {"cap": 2.0}, {}, "2 scale"),
        ("uscion", {"cap": 2.0}, {"weight_decay": 0.5}, "scale / decay"),
        ("uscion", {"decay": "cautious"}, {"weight_decay": 0.5}, None),
        ("uscion", {}, {}, None),
        ("modular-dual", {}, {"weight_decay": 0.5}, "scale / target / decay"),
        ("muon", {}, {"weight_decay": 0.5}, "scale / decay"),
        ("adamw", {}, {"weight_decay": 0.5}, None),
        ("hyperball", {}, {}, None),
    ],
)
def test_the_ball_that_a_recipe_keeps_weights_in(
    recipe: str, options: dict[str, Any], values: dict[str, float], radius: str | None
) -> None:
    (row,) = plan = plan_of([draft("w", (6, 4), "hidden")], recipe, **options)
    group = {"lr": 0.25, "weight_decay": 0.0, **values}
    known = {"scale": row.scale.value, "target": row.target, "lr": 0.25, "decay": 0.5}
    found = ball_of(row, recipe_of(plan), group)
    if radius is None:
        assert found is None
        return
    words = radius.replace(" / ", "/").replace(" ", "*")
    assert found == pytest.approx([eval(words, {}, known)])


@pytest.mark.parametrize(("recipe", "options"), [("scion", {}), ("uscion", {"weight_decay": 2.0})])
def test_weights_come_to_the_ball_and_stay(recipe: str, options: dict[str, Any]) -> None:
    """Far outside at first, they reach a ratio of one; under a constant gradient they sit on the sphere itself."""
    model = nn.Linear(5, 7, bias=False)
    nn.init.normal_(model.weight, std=100.0)
    opt = build(plan_of([draft("weight", (7, 5), "output")], recipe), model.named_parameters(), lr=0.1, **options)
    opt.metrics(every=1)
    gradient = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    ratios = []
    for _ in range(200):
        model.weight.grad = gradient.clone()
        opt.step()
        ratios.append(opt.metrics()["normc/weight/weight_over_radius"])
    assert ratios[0] > 10
    assert ratios[-1] == pytest.approx(1.0, abs=0.05)
    assert all(later <= earlier * (1 + 1e-3) for earlier, later in itertools.pairwise(ratios))


def test_blocks_are_measured_apart() -> None:
    """The block that is furthest out in its own ball, and the largest singular value of one block's update."""
    blocks = tuple(Block(label, 0, ((start, start + 4),)) for label, start in (("q", 0), ("k", 4), ("v", 8)))
    plan = plan_of([draft("w", (12, 4), "hidden", blocks=blocks)], "scion")
    (row,) = plan
    weight = nn.Parameter(torch.cat([torch.eye(4) * size for size in (1.0, 7.0, 2.0)]))
    weight.grad = torch.zeros_like(weight)
    meter = Meter(1)
    meter.before({"w": weight})
    with torch.no_grad():
        weight[8:] += 3.0 * torch.eye(4)
        weight[:4] += 2.0 * torch.eye(4)
    meter.after(plan, {"w": weight}, {"w": {"lr": 0.1}})
    found = meter.read()
    assert found["normc/w/update_spectral"] == pytest.approx(3.0)
    assert found["normc/w/weight_over_radius"] == pytest.approx(7.0 / row.scale.per_block[1])


def test_gradients_that_arent_finite_are_counted_whatever_the_step_does_about_them() -> None:
    for policy in ("raise", "skip", "zero"):
        model, opt = made(nonfinite=policy)
        opt.metrics(every=1)
        loss_of(model, 0).backward()
        assert model.head.weight.grad is not None
        model.head.weight.grad[0, :4] = math.nan
        if policy == "raise":
            with pytest.raises(NormcError, match=r"head\.weight"):
                opt.step()
        else:
            opt.step()
        found = opt.metrics()
        assert found["normc/head.weight/grad_nonfinite"] == pytest.approx(4 / model.head.weight.numel())
        if policy != "raise":
            assert (found["normc/head.weight/update_rms"] > 0) is (policy == "zero")
        assert opt._meter is not None
        assert not opt._meter._before


def test_what_has_no_gradient_has_no_numbers() -> None:
    model, opt = made()
    opt.metrics(every=1)
    train(model, [opt], 1)
    assert "normc/head.weight/update_rms" in opt.metrics()
    loss_of(model, 1).backward()
    model.head.weight.grad = None
    opt.step()
    assert not [key for key in opt.metrics() if "head.weight" in key]
    assert "normc/embed.weight/update_rms" in opt.metrics()


def test_convolutions_small_dtypes_and_empty_tensors() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 3)
            self.head = nn.Linear(6, 2)
            self.none = nn.Parameter(torch.zeros(0, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.conv(x).relu().mean((-2, -1))) + self.none.sum()

    torch.manual_seed(0)
    model = Net().to(torch.bfloat16)
    inputs = torch.randn(2, 3, 8, 8, dtype=torch.bfloat16)
    opt = normc.compile(model, inputs, compile=False)
    opt.metrics(every=1)
    before = model.conv.weight.detach().float().clone()
    model(inputs).square().mean().backward()
    opt.step()
    found = opt.metrics()
    moved = (model.conv.weight.detach().float() - before).flatten(1)
    assert found["normc/conv.weight/update_rms"] == pytest.approx(float(moved.square().mean().sqrt()), rel=1e-4)
    assert found["normc/conv.weight/update_spectral"] == pytest.approx(
        float(torch.linalg.matrix_norm(moved, 2)), rel=0.1
    )
    assert not [key for key in found if "none" in key]


def test_the_estimate_of_a_singular_value_comes_from_below() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((3, 40, 40), (2, 5, 60), (1, 1, 7), (2, 7, 1)):
        x = torch.randn(shape, generator=generator)
        ratio = largest_singular(x) / torch.linalg.matrix_norm(x, 2)
        assert (ratio <= 1 + 1e-5).all()
        assert (ratio >= 0.9).all()
    assert torch.equal(largest_singular(torch.zeros(1, 3, 4)), torch.zeros(1))
    assert largest_singular(torch.full((1, 3, 4), 1e30)) == pytest.approx(1e30 * math.sqrt(12), rel=1e-4)


def test_it_can_be_asked_for_before_there_is_a_plan_and_copies_start_without() -> None:
    torch.manual_seed(0)
    model = Small()
    opt = defer(recipes["scion"], model.named_parameters(), lr=0.1, compile=False)
    opt.metrics(every=1)
    opt.adopt(plan_of(small_rows(model)))
    train(model, [opt], 1)
    assert opt.metrics()["normc/head.weight/update_rms"] > 0
    _, other = copy.deepcopy((model, opt))
    with pytest.raises(NormcError):
        other.metrics()


@pytest.mark.parametrize("every", [-1, True, 2.0, "3"])
def test_a_number_of_steps_that_cant_be(every: Any) -> None:
    _, opt = made()
    with pytest.raises(NormcError, match="number of steps"):
        opt.metrics(every=every)
    assert metrics.ROUNDS > 0
