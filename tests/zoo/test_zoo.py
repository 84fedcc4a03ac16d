"""Every row of every model of the zoo against what its architecture says."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
import torch

import normc
from normc.plans.row import Row
from tests.quick import others_slow
from tests.zoo.awkward import AWKWARD
from tests.zoo.case import Case
from tests.zoo.kinds import KINDS
from tests.zoo.models import CASES


def said(row: Row) -> str:
    """A row in the notation of the expectations, whose norms are Scion's."""
    index = any(use.role == row.role and "index" in use.axes for use in row.uses)
    letters = []
    for axis in range(len(row.shape)):
        kinds = {"o": row.out_axes, "k": row.kernel_axes, "b": row.block_axes, "x" if index else "i": row.in_axes}
        letters.append(next((letter for letter, axes in kinds.items() if axis in axes), "-"))
    sizes = [("~" if len(block.spans) > 1 else "") + str(block.size) for block in row.blocks]
    return " ".join([row.role, "".join(letters), row.norm, *sizes])


def wrong_rows(case: Case, plan: normc.NormPlan) -> list[str]:
    """What differs from the expectation, one line a row."""
    wrong = [f"{row.name}: fallback {row.fallback}" for row in plan.rows if row.fallback]
    for row in plan.rows:
        keys = [key for key in case.expect if fnmatchcase(row.name, key)]
        exact = [key for key in keys if key == row.name] or sorted(keys, key=len, reverse=True)[:1]
        wanted = case.expect[exact[0]] if exact else "nothing expected"
        right = row.role == "unused" if wanted == "unused" else said(row) == wanted
        if not right:
            wrong.append(f"{row.name}: {said(row)!r}, but it is {wanted!r}")
    return wrong


def step_wrongs(model: torch.nn.Module, plan: normc.NormPlan) -> list[str]:
    """Take a step with random gradients: everything that the plan gives an update moves, by a finite amount."""
    opt = normc.compile(model, lr=0.1, plan=plan, compile=False)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for row in plan.rows:
        if row.role != "unused" and not row.frozen:
            parameter = model.get_parameter(row.name)
            parameter.grad = torch.randn_like(parameter)
    opt.step()
    wrong = []
    for row in plan.rows:
        after = model.get_parameter(row.name).detach()
        still = row.role == "unused" or row.frozen
        if not bool(after.isfinite().all()) or torch.equal(after, before[row.name]) != still:
            wrong.append(f"{row.name}: {'moved' if still else 'did not move by a finite amount'}")
    return wrong


@pytest.mark.parametrize("name", sorted(CASES))
def test_every_row_is_right(name: str) -> None:
    torch.manual_seed(0)
    case = CASES[name]
    model = case.build()
    plan = normc.plan(model, case.inputs(), recipe="uscion")
    names = [parameter for parameter, _ in model.named_parameters()]
    assert [row.name for row in plan.rows] == names
    assert not (wrong := wrong_rows(case, plan)), "\n".join(wrong)
    unmet = [key for key in case.expect if not any(fnmatchcase(parameter, key) for parameter in names)]
    assert not unmet, "expectations that no parameter meets"


STEPS = [
    *(("uscion", name) for name in sorted(CASES)),
    *((recipe, name) for recipe in ("muon", "modular-dual") for name in sorted(AWKWARD)),
]


QUICK = {*(("uscion", name) for name in KINDS), *(("modular-dual", name) for name in AWKWARD)}


@pytest.mark.parametrize("case", others_slow(STEPS, QUICK), ids="-".join)
def test_plans_become_steps(case: tuple[str, str]) -> None:
    recipe, name = case
    torch.manual_seed(0)
    model = CASES[name].build()
    assert not (wrong := step_wrongs(model, normc.plan(model, CASES[name].inputs(), recipe=recipe))), "\n".join(wrong)
