"""Planning leaves every model of the zoo as it was, in training mode too, and training mode changes no decision."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import normc
from tests.model.trace.state import rng_state, state_of
from tests.quick import others_slow
from tests.zoo.awkward import AWKWARD
from tests.zoo.models import CASES

# What these compute while they train and at no other time changes the plan.
DIFFER = {
    "wavlm": "it masks its inputs with a learned vector while it trains",
    "wav2vec2-conformer": "it masks its inputs with a learned vector while it trains",
    **dict.fromkeys(("segformer", "swin", "swinv2"), "while it trains, it leaves branches out: other sizes"),
}


@pytest.mark.parametrize("name", others_slow(sorted(CASES), {*AWKWARD, "hf-gpt2", "swin", "wavlm"}))
def test_planning_leaves_the_model_untouched(name: str) -> None:
    torch.manual_seed(0)
    model, inputs = CASES[name].build(), CASES[name].inputs()
    hashes = set()
    for training in (False, True):
        model.train(training)
        before, rng = state_of(model), rng_state()
        hashes.add(normc.plan(model, inputs).hash)
        assert state_of(model) == before
        assert rng_state() == rng
        assert nn.Module.__call__ is nn.Module._wrapped_call_impl
    assert len(hashes) == (2 if name in DIFFER else 1), "training mode changes the plan"
