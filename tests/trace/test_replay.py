"""A graph means what the model computes: replayed on real tensors it equals the eager run; the model is untouched."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from normc.trace import feeds_of, replay, trace
from normc.trace.frontend import tensor_leaves
from normc.trace.untouched import rng_untouched, untouched
from tests.trace.zoo import ALL


def _state(model: nn.Module) -> dict[str, object]:
    """Everything that tracing must leave alone, by value or by identity."""
    tensors = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
    found: dict[str, object] = {name: (id(t), t._version, t.tolist(), t.requires_grad) for name, t in tensors.items()}
    for path, module in model.named_modules():
        for key, value in vars(module).items():
            content = tuple(value) if isinstance(value, list) else dict(value) if isinstance(value, dict) else value
            found[f"{path}:{key}"] = (id(value), repr(content) if not isinstance(value, Tensor) else value.tolist())
    return found


def _rng() -> tuple[object, ...]:
    return torch.get_rng_state().tolist(), random.getstate(), repr(np.random.get_state())


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", ALL)
def test_replay_equals_eager_and_the_model_is_untouched(name: str, training: bool) -> None:
    torch.manual_seed(0)
    model, (args, kwargs) = ALL[name]()
    model.train(training)
    before, rng = _state(model), _rng()

    graph = trace(model, args, kwargs)

    assert _state(model) == before
    assert _rng() == rng
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
