"""Every row of every model of the zoo against what its architecture says."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
import torch

import normc
from normc.plans.row import Row
from tests.zoo.models import CASES


def said(row: Row) -> str:
    """A row in the notation of the expectations."""
    index = any(use.role == row.role and "index" in use.axes for use in row.uses)
    letters = []
    for axis in range(len(row.shape)):
        kinds = {"o": row.out_axes, "k": row.kernel_axes, "b": row.block_axes, "x" if index else "i": row.in_axes}
        letters.append(next((letter for letter, axes in kinds.items() if axis in axes), "-"))
    sizes = [("~" if len(block.spans) > 1 else "") + str(block.size) for block in row.blocks]
    return " ".join([row.role, "".join(letters), row.norm, *sizes])


def wrong_rows(name: str) -> list[str]:
    """What differs from the expectation, one line a row."""
    case = CASES[name]
    plan = normc.plan(case.build(), case.inputs())
    wrong = [f"{row.name}: fallback {row.fallback}" for row in plan.rows if row.fallback]
    for row in plan.rows:
        keys = [key for key in case.expect if fnmatchcase(row.name, key)]
        exact = [key for key in keys if key == row.name] or sorted(keys, key=len, reverse=True)[:1]
        wanted = case.expect[exact[0]] if exact else "nothing expected"
        right = row.role == "unused" if wanted == "unused" else said(row) == wanted
        if not right:
            wrong.append(f"{row.name}: {said(row)!r}, but it is {wanted!r}")
    return wrong


@pytest.mark.parametrize("name", sorted(CASES))
def test_every_row_is_right(name: str) -> None:
    assert not wrong_rows(name), "\n".join(wrong_rows(name))


@pytest.mark.parametrize("recipe", ["uscion", "muon"])
@pytest.mark.parametrize("name", sorted(CASES))
def test_every_plan_becomes_a_step(name: str, recipe: str) -> None:
    """Random gradients move every parameter that the plan gives an update, by a finite amount."""
    case = CASES[name]
    torch.manual_seed(0)
    model = case.build()
    opt = normc.compile(model, case.inputs(), lr=0.1, recipe=recipe, compile=False)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for row in opt.plan.rows:
        if row.role != "unused" and not row.frozen:
            parameter = model.get_parameter(row.name)
            parameter.grad = torch.randn_like(parameter)
    opt.step()
    for row in opt.plan.rows:
        after = model.get_parameter(row.name).detach()
        assert bool(after.isfinite().all()), row.name
        assert torch.equal(after, before[row.name]) == (row.role == "unused" or row.frozen), row.name


@pytest.mark.parametrize("name", sorted(CASES))
def test_every_expectation_is_met_by_a_parameter(name: str) -> None:
    case = CASES[name]
    names = [parameter for parameter, _ in case.build().named_parameters()]
    assert all(any(fnmatchcase(parameter, key) for parameter in names) for key in case.expect)


@pytest.mark.parametrize("name", sorted(CASES))
def test_every_parameter_has_one_row(name: str) -> None:
    case = CASES[name]
    model = case.build()
    plan = normc.plan(model, case.inputs())
    assert [row.name for row in plan.rows] == [parameter for parameter, _ in model.named_parameters()]
