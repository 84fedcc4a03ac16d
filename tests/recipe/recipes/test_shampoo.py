"""Shampoo: equality with the package pytorch_optimizer and with its formulas, its identities."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normc.compiler import build
from normc.errors import NormcError
from tests.handmade import Small, draft, plan_of, small_rows, train


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [pytest.param(torch.float32, 3e-5, marks=pytest.mark.slow), (torch.float64, 1e-12)]
)
def test_shampoo_equals_the_package(dtype: torch.dtype, tolerance: float) -> None:
    """Fifty steps of sums and powers of -1/4; vectors have one factor and -1/2."""
    from pytorch_optimizer import Shampoo

    torch.manual_seed(0)
    ours = Small().to(dtype)
    theirs, start = copy.deepcopy(ours), copy.deepcopy(ours)
    rows = [replace(row, dtype=str(dtype).removeprefix("torch.")) for row in small_rows(ours)]
    train(ours, [build(plan_of(rows, "shampoo"), ours.named_parameters(), lr=3e-3, compile=False)], 50)
    train(theirs, [Shampoo(theirs.parameters(), lr=3e-3)], 50)
    for mine, other, first in zip(ours.parameters(), theirs.parameters(), start.parameters(), strict=True):
        assert float((mine - other).detach().abs().max()) < tolerance
        assert float((mine - first).detach().abs().max()) > 4e-3


def gradients(shape: tuple[int, ...], steps: int) -> Tensor:
    """The same for every call."""
    return torch.randn((steps, *shape), dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def last_step(grads: list[Tensor], shape: tuple[int, ...], **options: Any) -> Tensor:
    """The direction of the step with the last gradient."""
    numbers = {name: options.pop(name) for name in list(options) if name in ("beta2", "eps", "momentum")}
    row = draft("w", shape, "hidden" if len(shape) > 1 else "bias", dtype="float64")
    w = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
    opt = build(plan_of([row], "shampoo", **options), [("w", w)], lr=1.0, compile=False, **numbers)
    for grad in grads:
        before = w.detach().clone()
        w.grad = grad
        opt.step()
    return before - w.detach()


def inverse_power(a: Tensor, power: float, eps: float = 1e-6) -> Tensor:
    """(a + eps)^-power of a symmetric matrix."""
    values, vectors = torch.linalg.eigh(a + eps * torch.eye(len(a), dtype=a.dtype))
    return vectors @ torch.diag(values**-power) @ vectors.T


@pytest.mark.parametrize("shape", [(5, 5), (7, 4), (4, 7)])
def test_without_memory_it_is_the_polar_factor(shape: tuple[int, ...]) -> None:
    grads = gradients(shape, 3)
    u, _, vh = torch.linalg.svd(grads[-1], full_matrices=False)
    known = u @ torch.diag(torch.linspace(1, 3, min(shape), dtype=torch.float64)) @ vh
    found = last_step([*grads[:-1], known], shape, beta2=0.0, eps=0.0)
    assert float((found - u @ vh).abs().max()) < 1e-13


def test_with_power_half_it_is_adafactor_in_its_eigenbases() -> None:
    """Whose average squares are the product of those of rows and columns, over their sum."""
    grads = gradients((6, 4), 9)
    left, right = sum(g @ g.T for g in grads), sum(g.T @ g for g in grads)
    (rows, q), (columns, p) = torch.linalg.eigh(left), torch.linalg.eigh(right)
    squares = torch.outer(rows, columns) / rows.sum()
    expected = q @ ((q.T @ grads[-1] @ p) / squares.sqrt()) @ p.T
    found = last_step(list(grads), (6, 4), power="1/2", trace=True, eps=0.0)
    assert float((found - expected).abs().max()) < 5e-14


@pytest.mark.parametrize(("power", "number"), [("1/4", 0.25), ("1/2", 0.5)])
def test_sums_averages_eps_and_intervals(power: str, number: float) -> None:
    grads = gradients((6, 4), 8)
    left, right = torch.zeros(6, 6).double(), torch.zeros(4, 4).double()
    for index, g in enumerate(grads):
        left, right = 0.9 * left + 0.1 * g @ g.T, 0.9 * right + 0.1 * g.T @ g
        if index in (0, 3, 6):
            roots = inverse_power(left, number, 0.3), inverse_power(right, number, 0.3)
    found = last_step(list(grads), (6, 4), power=power, beta2=0.9, eps=0.3, interval=3)
    torch.testing.assert_close(found, roots[0] @ grads[-1] @ roots[1], atol=1e-12, rtol=0)


def test_vectors_and_single_sides_get_the_root_of_their_one_factor() -> None:
    grads = gradients((6, 4), 8)
    right = torch.stack([g.T @ g for g in grads]).sum(0)
    for options, expected in (
        ({"max_precond_dim": 5}, grads[-1] @ inverse_power(right, 0.5)),
        (
            {"one_sided": True, "power": "1/2", "trace": True},
            grads[-1] @ inverse_power(right, 0.5),
        ),
        ({"max_precond_dim": 3}, grads[-1] / (grads.square().sum(0) + 1e-6).sqrt()),
    ):
        torch.testing.assert_close(last_step(list(grads), (6, 4), **options), expected, atol=1e-12, rtol=0)
    flat = [g.flatten() for g in gradients((2, 2), 8)]
    full = torch.stack([torch.outer(g, g) for g in flat]).sum(0)
    expected = inverse_power(full, 0.5) @ flat[-1]
    torch.testing.assert_close(last_step(flat, (4,)), expected, atol=1e-12, rtol=0)
    expected = flat[-1] / (sum(g.square() for g in flat) + 1e-6).sqrt()
    torch.testing.assert_close(last_step(flat, (4,), vectors="diagonal"), expected, atol=1e-12, rtol=0)


def test_an_average_is_put_over_the_roots_of_the_gradients_themselves() -> None:
    grads = gradients((4, 4), 5)
    left, right = sum(g @ g.T for g in grads), sum(g.T @ g for g in grads)
    average = torch.zeros(4, 4).double()
    for g in grads:
        average = 0.5 * average + 0.5 * g
    expected = inverse_power(left, 0.25) @ average @ inverse_power(right, 0.25)
    found = last_step(list(grads), (4, 4), average=True, momentum=0.5)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_a_missing_gradient_is_no_step_and_resuming_is_equal_to_the_bit() -> None:
    torch.manual_seed(0)
    whole = Small()
    halves = copy.deepcopy(whole)
    plan = plan_of(small_rows(whole), "shampoo", interval=3)

    def steps(model: Small, opt: Any, first: int, last: int) -> None:
        for step in range(first, last):
            train(model, [Skipping(model, opt, step)], 1, first=step)

    steps(whole, build(plan, whole.named_parameters(), lr=3e-3, compile=False), 0, 12)
    opt = build(plan, halves.named_parameters(), lr=3e-3, compile=False)
    steps(halves, opt, 0, 7)
    again = build(plan, halves.named_parameters(), lr=3e-3, compile=False)
    again.load_state_dict(copy.deepcopy(opt.state_dict()))
    steps(halves, again, 7, 12)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), halves.parameters(), strict=True))
    assert float(again.state[dict(halves.named_parameters())["up.1.weight"]]["step"]) == 8


class Skipping:
    """Takes the gradient of one of three stacked layers away at every third step."""

    def __init__(self, model: Small, opt: Any, step: int) -> None:
        self.model, self.opt, self.lost = model, opt, step % 3 == 1

    def step(self) -> None:
        if self.lost:
            self.model.up[1].weight.grad = None
        self.opt.step()

    def zero_grad(self) -> None:
        self.opt.zero_grad()


def test_options_are_checked() -> None:
    rows = [draft("w", (8, 4), "hidden"), draft("b", (8,), "bias"), draft("f", (8, 4), "hidden", fallback="unknown op")]
    for options in ({"power": "1/3"}, {"vectors": "none"}, {"trace": True}, {"interval": 0}):
        with pytest.raises(NormcError):
            plan_of(rows, "shampoo", **options)
    found = plan_of(rows, "shampoo").rows
    assert [row.rule for row in found] == ["shampoo", "shampoo", "adagrad"]
    assert found[0].state_bytes == 4 * (2 * (64 + 16) + 1)
    assert found[2].state_bytes == 4 * 32
