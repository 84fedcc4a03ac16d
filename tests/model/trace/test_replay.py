"""A graph means what the model computes: replayed on real tensors it equals the eager run; the model is untouched."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from normc.model.trace.frontend import trace
from normc.model.trace.replay import feeds_of, replay
from normc.model.trace.untouched import rng_untouched, untouched
from normc.model.trace.values import tensor_leaves
from tests.model.trace.state import rng_state, state_of
from tests.model.trace.zoo import ALL


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", ALL)
def test_replay_equals_eager_and_the_model_is_untouched(name: str, training: bool) -> None:
    torch.manual_seed(0)
    model, (args, kwargs) = ALL[name]()
    model.train(training)
    before, rng = state_of(model), rng_state()

    graph = trace(model, args, kwargs)

    assert state_of(model) == before
    assert rng_state() == rng
    assert nn.Module.__call__ is nn.Module._wrapped_call_impl
    assert [parameter.name for parameter in graph.parameters] == [name for name, _ in model.named_parameters()]
    feeds = feeds_of(graph, model, args, kwargs)
    with rng_untouched(), untouched(model):
        expected = tensor_leaves(model(*args, **kwargs))
    got = replay(graph, feeds)
    assert not graph.guesses
    assert len(got) == len(expected)
    for ours, eager in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, eager.detach(), rtol=1e-4, atol=1e-5)
