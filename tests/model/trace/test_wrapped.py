"""Wrapped models keep the names that the user sees; hooks, checkpoints and first forwards behave."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normc.model.trace.first_forward import on_first_forward
from normc.model.trace.frontend import trace
from normc.model.trace.graph import ModelGraph
from normc.nodes import op_name


def _model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def _names(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters()]


def _ops(model: nn.Module, *args: Any) -> list[str]:
    return [op_name(node) for node in trace(model, args, {}).graph.nodes if node.op == "call_function"]


def test_a_compiled_model_is_traced_as_written_under_the_users_names() -> None:
    plain = _model()
    compiled: Any = torch.compile(plain, backend="eager")
    graph = trace(compiled, (torch.randn(3, 4),), {})
    assert list(graph.nodes) == _names(compiled)
    assert graph.model == "Sequential"
    assert _ops(compiled, torch.randn(3, 4)) == _ops(plain, torch.randn(3, 4))
    assert compiled(torch.randn(3, 4)).shape == (3, 2)


def test_a_compiled_part_is_traced_as_written() -> None:
    model = _model()
    part: Any = torch.compile(model[0], backend="eager")
    model[0] = part
    part(torch.randn(1, 4))
    graph = trace(model, (torch.randn(3, 4),), {})
    assert list(graph.nodes) == _names(model)
    assert _ops(model, torch.randn(3, 4)) == ["aten.linear", "aten.relu", "aten.linear"]


def test_hooks_run_and_what_they_collect_is_put_back() -> None:
    model = _model()
    collected: list[Tensor] = []
    handle = model[1].register_forward_hook(lambda module, args, out: collected.append(out))
    trace(model, (torch.randn(3, 4),), {})
    assert collected == []
    model(torch.randn(3, 4))
    assert len(collected) == 1
    handle.remove()


def test_the_first_forward_calls_back_once_and_a_trace_does_not() -> None:
    model, calls = _model(), []
    on_first_forward(model, lambda args, kwargs: calls.append((args, kwargs)))
    x = torch.randn(3, 4)
    trace(model, (x,), {})
    assert calls == []
    model(input=x)
    model(x)
    assert len(calls) == 1 and calls[0][1]["input"] is x
    assert not model._forward_pre_hooks


def test_the_first_forward_can_be_traced_from_the_callback() -> None:
    model, graphs = _model(), []
    on_first_forward(model, lambda args, kwargs: graphs.append(trace(model, args, kwargs)))
    with torch.no_grad():
        model(torch.randn(3, 4))
    assert len(graphs[0].nodes) == 4
    assert all(node.meta["grad"] for node in graphs[0].graph.nodes if node.op == "call_function")


def test_a_compiled_model_calls_back_on_its_first_forward() -> None:
    compiled: Any = torch.compile(_model(), backend="eager")
    graphs: list[ModelGraph] = []
    on_first_forward(compiled, lambda args, kwargs: graphs.append(trace(compiled, args, kwargs)))
    out = [compiled(torch.ones(3, 4)) for _ in range(2)]
    assert torch.equal(*out) and out[0].requires_grad
    assert len(graphs) == 1 and list(graphs[0].nodes) == _names(compiled)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_a_scripted_part_is_traced_and_still_runs() -> None:
    scripted: Any = torch.jit.script(_model())
    model = nn.Sequential(scripted, nn.Linear(2, 2))
    expected = model(torch.ones(3, 4))
    graph = trace(model, (torch.ones(3, 4),), {})
    assert all(node.users for node in graph.nodes.values())
    assert torch.equal(model(torch.ones(3, 4)), expected)


def test_a_removed_handle_never_calls_back() -> None:
    model, calls = _model(), []
    on_first_forward(model, lambda args, kwargs: calls.append(args)).remove()
    model(torch.randn(3, 4))
    assert calls == []


@pytest.mark.parametrize("attribute", ["float16", "bfloat16"])
def test_low_precision_and_autocast_show_their_casts(attribute: str) -> None:
    model = _model()
    dtype = getattr(torch, attribute)
    with torch.autocast("cpu", dtype=dtype):
        assert (
            _ops(model, torch.randn(3, 4)).count("aten.to") + _ops(model, torch.randn(3, 4)).count("aten._to_copy") > 0
        )
    assert trace(model.to(dtype), (torch.randn(3, 4, dtype=dtype),), {}).parameters[0].dtype == dtype
