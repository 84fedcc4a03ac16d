"""No parameter that autograd reaches is unused, in eval and in training mode, and autograd reaches all that isn't."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import normc
from benchmarks.sweep.gradients import Call, compared, reached
from normc.model.trace.inputs import example_inputs
from tests.model.trace.zoo import ALL
from tests.zoo.byways import BYWAYS
from tests.zoo.functions import FUNCTIONS
from tests.zoo.kinds import KINDS
from tests.zoo.models import CASES
from tests.zoo.test_untouched import DIFFER

# Rows that get a step, and no gradient from this example. Each with its reason.
IDLE = dict.fromkeys(
    ("asked and yes", "asked and no", "equal to a number", "not equal to a number", "asked for an item",
     "asked about all"), "the example takes the other path",
)  # fmt: skip


SMALL = BYWAYS | FUNCTIONS


def built(name: str) -> tuple[nn.Module, Call]:
    """A model and its call, by the name of its test."""
    place, _, own = name.partition(" ")
    if place == "zoo":
        model = CASES[own].build()
        return model, example_inputs(model, CASES[own].inputs())
    if place == "traced":
        return ALL[own]()
    model, args = SMALL[name]()
    return model, (args, {})


def truth(name: str, model: nn.Module, call: Call) -> set[int]:
    """Ids of the parameters that autograd reaches."""
    if name == "score function":  # flex_attention has no backward on a CPU; all of that model is used
        return {id(parameter) for parameter in model.parameters()}
    return reached(model, call)


NAMES = (*(f"zoo {name}" for name in sorted(CASES)), *(f"traced {name}" for name in ALL), *SMALL)
QUICK = {f"zoo {name}" for name in (*KINDS, *DIFFER)} | {f"traced {name}" for name in ALL} | set(SMALL)


def _parameters() -> list[object]:
    found: list[object] = []
    for name in NAMES:
        for training in (False, True):
            usual = name in SMALL or name.partition(" ")[2] in DIFFER  # others are alike in both modes
            marks = [] if name in QUICK and (usual or not training) else [pytest.mark.slow]
            found.append(pytest.param(name, training, marks=marks, id=f"{name}-{'training' if training else 'eval'}"))
    return found


@pytest.mark.parametrize(("name", "training"), _parameters())
def test_unused_is_what_autograd_does_not_reach(name: str, training: bool) -> None:
    torch.manual_seed(0)
    model, call = built(name)
    plan = normc.plan(model.train(training), call)
    torch.manual_seed(0)
    found = truth(name, model, call)
    differ = compared(plan, {name for name, parameter in model.named_parameters() if id(parameter) in found})
    assert differ.lost == (), "unused in the plan, but autograd reaches them"
    assert differ.idle == () or name in IDLE, "planned, but autograd doesn't reach them"
