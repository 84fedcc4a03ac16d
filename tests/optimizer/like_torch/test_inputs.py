"""What torch's own tests ask of parameters, options and flags that an optimizer is given, recipe by recipe."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from normc.compiler import build
from normc.errors import NormcError
from tests.handmade import draft, plan_of
from tests.optimizer.like_torch.problem import RECIPES, Net, made, plan, run, weights

PARAMETER, OTHER = nn.Parameter(torch.ones(10, 5)), nn.Parameter(torch.ones(10))


NAMED = [("weight", PARAMETER), ("bias", OTHER)]


REFUSED: dict[str, tuple[Any, dict[str, Any]]] = {
    "a tensor instead of an iterable": (PARAMETER, {}),
    "a parameter twice": ([("weight", PARAMETER), ("bias", PARAMETER)], {}),
    "a name twice": ([("weight", PARAMETER), ("weight", OTHER)], {}),
    "groups that share a parameter": ([{"params": PARAMETER}, {"params": PARAMETER}], {}),
    "groups": ([{"params": [PARAMETER], "lr": 1e-2}, {"params": [("bias", OTHER)]}], {}),
    "one without a name": ([("weight", PARAMETER), OTHER], {}),
    "none with a name": ([PARAMETER, OTHER], {}),
    "more than a name and a tensor": ([(*pair, 1) for pair in NAMED], {}),
    "no tensor": ([("weight", PARAMETER), ("bias", 3.0)], {}),
    "nothing": ([], {}),
    "a name alone": (["weight", "bias"], {}),
    "an lr of two entries": (NAMED, {"lr": torch.tensor([1e-3, 1e-3])}),
    "a negative lr": (NAMED, {"lr": -1e-2}),
    "an lr that is no number": (NAMED, {"lr": "1e-2"}),
    "an lr that isn't finite": (NAMED, {"lr": float("nan")}),
    "a negative decay": (NAMED, {"weight_decay": -1.0}),
    "a share of one": (NAMED, {"momentum": 1.0}),
    "betas": (NAMED, {"betas": (0.9, 0.99)}),
}


@pytest.mark.parametrize("what", list(REFUSED))
@pytest.mark.parametrize("recipe", ["auto", "adamw"])
def test_inputs_that_torch_refuses_are_refused(recipe: str, what: str) -> None:
    params, options = REFUSED[what]
    with pytest.raises(NormcError, match="fix: "):
        build(plan(recipe), params, **({"lr": 1e-3, "compile": False} | options))


@pytest.mark.parametrize("recipe", RECIPES)
def test_complex_parameters_are_refused(recipe: str) -> None:
    model = Net(torch.complex64)
    with pytest.raises(NormcError, match="complex"):
        build(plan(recipe), model.named_parameters(), lr=1e-3)


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_default_dtype_does_not_matter(recipe: str) -> None:
    expected = run(*made(recipe))
    torch.set_default_dtype(torch.float64)
    try:
        found = run(*made(recipe))
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("recipe", RECIPES)
def test_dtypes_may_be_mixed(recipe: str) -> None:
    model = Net()
    model.bias = nn.Parameter(model.bias.detach().to(torch.bfloat16))
    opt = build(plan(recipe), model.named_parameters(), lr=1e-2, compile=False)
    first = float(model())
    run(model, opt, 10)
    assert float(model()) < first
    assert (model.weight.dtype, model.bias.dtype) == (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_can_be_printed(recipe: str) -> None:
    _, opt = made(recipe)
    text = repr(opt)
    assert "Optimizer" in text
    assert "lr: 0.001" in text
    assert text == str(opt)


@pytest.mark.parametrize("recipe", RECIPES)
def test_groups_cannot_be_added(recipe: str) -> None:
    _, opt = made(recipe)
    with pytest.raises(NormcError, match="plan the whole model"):
        opt.add_param_group({"params": [nn.Parameter(torch.ones(2))]})


@pytest.mark.parametrize("recipe", RECIPES)
def test_parameters_without_entries_are_stepped_beside_the_others(recipe: str) -> None:
    model = Net()
    none = nn.Parameter(torch.zeros(0, 5))
    model.register_parameter("none", none)
    rows = [draft("weight", (10, 5), "hidden"), draft("bias", (10,), "bias"), draft("none", (0, 5), "hidden")]
    opt = build(plan_of(rows, recipe), model.named_parameters(), lr=1e-2, compile=False)
    first = float(model())
    for _ in range(10):
        loss = model() + none.sum()
        opt.zero_grad()
        loss.backward()
        opt.step()
    assert float(model()) < first
    assert torch.isfinite(weights(model)).all()


@pytest.mark.parametrize("flag", ["foreach", "fused", "capturable", "differentiable", "maximize"])
def test_flags_of_torch_are_refused_with_what_to_do_instead(flag: str) -> None:
    with pytest.raises(NormcError, match="fix: "):
        made("auto", **{flag: True})
    assert torch.equal(run(*made("auto", **{flag: False})), run(*made("auto")))
