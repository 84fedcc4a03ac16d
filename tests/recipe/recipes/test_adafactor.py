"""Adafactor: equal to torch's and to another package's, and its other dialect to a plain loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normc
from normc.compiler import build
from normc.errors import NormcError
from normc.plans.row import Block
from normc.recipe.by_name import recipes
from tests.handmade import draft, plan_of
from tests.recipe.recipes.test_adam import Loop
from tests.recipe.recipes.tiny import difference, made, ours, tokens

DTYPES = [pytest.param(torch.float32, 2e-5, marks=pytest.mark.slow), (torch.float64, 1e-12)]


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize(
    "values", [{}, {"weight_decay": 0.1}, {"lr": 0.2}, {"beta2_decay": -0.5, "d": 2.0, "eps": (1e-3, 1e-2)}]
)
def test_fifty_steps_equal_torch(values: dict[str, Any], dtype: torch.dtype, tolerance: float) -> None:
    """Whatever the tensors are: fused queries, keys and values, convolutions. An lr of .2 is capped from step 26 on."""
    options: dict[str, Any] = {"matrices": "stored"}
    if "d" in values:
        options |= {"beta2_decay": -0.5, "clip": 2.0, "eps1": 1e-3, "eps2": 1e-2}
    lr = values.get("lr", 2e-2)
    apart, moved = difference(
        made(dtype, fused=True, conv=True),
        lambda model: ours(model, "adafactor", lr, options, weight_decay=values.get("weight_decay", 0.0)),
        lambda model: torch.optim.Adafactor(model.parameters(), **({"lr": lr} | values)),
    )
    assert apart < tolerance * (100 if lr == 0.2 else 1)
    assert moved > 1e-4


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_plain_matrices_are_seen_as_torch_sees_them(dtype: torch.dtype, tolerance: float) -> None:
    apart, _ = difference(
        made(dtype),
        lambda model: ours(model, "adafactor", 2e-2),
        lambda model: torch.optim.Adafactor(model.parameters(), lr=2e-2),
    )
    assert apart < tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_fifty_steps_equal_another_package(dtype: torch.dtype, tolerance: float) -> None:
    """pytorch_optimizer's without its average of steps. Its eps1 is added to squares; here roots are at least 1e-15."""
    module = pytest.importorskip("pytorch_optimizer")
    values: dict[str, Any] = {"lr": 1e-2, "betas": (None, 0.999), "relative_step": False, "eps1": 1e-30}
    apart, moved = difference(
        made(dtype),
        lambda model: ours(model, "adafactor", 1e-2, {"eps1": 1e-15}),
        lambda model: module.AdaFactor(model.parameters(), **values),
    )
    assert apart < tolerance
    assert moved > 1e-4


def paper(w: Tensor, g: Tensor, state: dict[str, Tensor], t: int) -> Tensor:
    """Theory, D1: averages of means over every axis but one; 0-d means of vectors, as mean(dim=()) has them."""
    m = state["m"] = 0.9 * state.get("m", torch.zeros_like(g)) + 0.1 * g
    if g.dim() == 1:
        v = state["v"] = 0.95 * state.get("v", torch.zeros(())) + 0.05 * g.square().mean()
    else:
        r = state["r"] = 0.95 * state.get("r", torch.zeros(())) + 0.05 * g.square().mean(1)
        c = state["c"] = 0.95 * state.get("c", torch.zeros(())) + 0.05 * g.square().mean(0)
        v = torch.outer(r, c) / r.mean()
    return w * (1 - 2e-3 * 0.1) - 2e-3 / (1 - 0.9**t) * m / (v.sqrt() / (1 - 0.95**t) ** 0.5 + 1e-10)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_fifty_steps_of_the_paper_have_their_closed_form(dtype: torch.dtype, tolerance: float) -> None:
    apart, moved = difference(
        made(dtype),
        lambda model: ours(model, "adafactor", 2e-3, {"variant": "paper"}, weight_decay=0.1, eps=1e-10),
        lambda model: Loop(model, paper),
    )
    assert apart < tolerance
    assert moved > 1e-2


@pytest.mark.parametrize("variant", ["torch", "paper"])
@pytest.mark.parametrize("axis", [0, 1])
def test_blocks_are_matrices_of_their_own(variant: str, axis: int) -> None:
    """Fused queries, keys and values, however they are stored, equal three matrices; unequal blocks as well."""
    torch.manual_seed(1)
    cuts = [(0, 8), (8, 12), (12, 16)]
    for spans in ([((start, stop),) for start, stop in cuts], [((i, i + 1), (i + 3, i + 4)) for i in range(3)]):
        size = sum(stop - start for own in spans for start, stop in own)
        shape = (size, 5) if axis == 0 else (5, size)
        fused = nn.Parameter(torch.randn(shape))
        index = [torch.cat([torch.arange(*span) for span in own]) for own in spans]
        parts = [nn.Parameter(fused.detach().index_select(axis, own)) for own in index]
        axes = {"out_axes": (axis,), "in_axes": (1 - axis,)}
        blocks = tuple(Block(name, axis, own) for name, own in zip("qkv", spans, strict=True))
        row = draft("w", shape, "hidden", blocks=blocks, **axes)
        rows = [draft(name, tuple(part.shape), "hidden", **axes) for name, part in zip("qkv", parts, strict=True)]
        one = build(plan_of([row], "adafactor", variant=variant), [("w", fused)], lr=0.1, compile=False)
        named = list(zip("qkv", parts, strict=True))
        two = build(plan_of(rows, "adafactor", variant=variant), named, lr=0.1, compile=False)
        for _ in range(3):
            fused.grad = torch.randn(shape)
            for part, own in zip(parts, index, strict=True):
                part.grad = fused.grad.index_select(axis, own)
            one.step()
            two.step()
        for part, own in zip(parts, index, strict=True):
            torch.testing.assert_close(fused.detach().index_select(axis, own), part.detach())


def test_its_state_is_rows_and_columns() -> None:
    plan = normc.plan(made(fused=True), (tokens(0)[:, :-1],), recipe="adafactor")
    found = {row.name: row.state_bytes for row in plan}
    assert found["attention.0.qkv.weight"] == 4 * 3 * (16 + 16) + 4
    assert found["attention.0.out.bias"] == 4 * 16 + 4
    assert found["tok.weight"] == 4 * (16 + 17) + 4


def test_gradients_that_are_zero_move_nothing() -> None:
    for variant in ("torch", "paper"):
        w = nn.Parameter(torch.ones(4, 3))
        plan = plan_of([draft("w", (4, 3), "hidden")], "adafactor", variant=variant)
        opt = build(plan, [("w", w)], lr=0.1, compile=False)
        w.grad = torch.zeros(4, 3)
        opt.step()
        torch.testing.assert_close(w.detach(), torch.ones(4, 3))


def test_what_is_unknown_is_refused() -> None:
    for option in ("variant", "matrices"):
        with pytest.raises(NormcError, match="known"):
            recipes["adafactor"].configure(**{option: "other"})
