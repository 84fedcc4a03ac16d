"""The export frontend: its graph means what the model computes, has what the contract says, and nothing is touched."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

import normc
from normc.model.trace.effects import after_write
from normc.model.trace.frontend import trace
from normc.model.trace.graph import ModelGraph
from normc.model.trace.replay import feeds_of, replay
from normc.model.trace.untouched import rng_untouched, untouched
from normc.model.trace.values import tensor_leaves
from normc.nodes import op_name
from tests.model.trace import awkward
from tests.model.trace.state import rng_state, state_of
from tests.model.trace.zoo import ALL

# What torch.export can't run, with a part of what is said.
REFUSED = {
    "branching": r"in the model itself \(awkward.py:\d+\) raised GuardOnDataDependentSymNode",  # asks for a length
    "force": r"lost how an operand of aten.t \(awkward.py:\d+\) was computed",  # a gradient inside forward
}


@pytest.mark.parametrize(
    "training", [pytest.param(True, id="train", marks=pytest.mark.slow), pytest.param(False, id="eval")]
)
@pytest.mark.parametrize("name", sorted(ALL.keys() - REFUSED.keys()))
def test_replay_equals_eager_and_the_model_is_untouched(name: str, training: bool) -> None:
    torch.manual_seed(0)
    model, (args, kwargs) = ALL[name]()
    model.train(training)
    before, rng = state_of(model), rng_state()

    graph = trace(model, args, kwargs, "export")

    assert graph.frontend == "export" and not graph.guesses
    assert state_of(model) == before
    assert rng_state() == rng
    assert nn.Module.__call__ is nn.Module._wrapped_call_impl
    feeds = feeds_of(graph, model, args, kwargs)
    with rng_untouched(), untouched(model):
        expected = tensor_leaves(model(*args, **kwargs))
    got = replay(graph, feeds)
    assert len(got) == len(expected)
    for ours, eager in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, eager.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(ALL.keys() - REFUSED.keys()))
def test_the_graph_is_the_recorders_but_for_branches_of_the_model(name: str) -> None:
    """Same placeholders; every node has the contract's facts; hand-written models have the same ops at each place."""
    model, (args, kwargs) = ALL[name]()
    recorded, exported = trace(model, args, kwargs), trace(model, args, kwargs, "export")
    exported.graph.lint()
    assert exported.parameters == recorded.parameters
    assert exported.nodes.keys() == recorded.nodes.keys()
    for node in exported.graph.nodes:
        if node.op == "placeholder":
            assert sum(kind in node.meta for kind in ("param", "buffer", "input")) == 1
        elif node.op == "call_function":
            assert isinstance(node.target, torch._ops.OpOverload) or op_name(node) in (
                "operator.getitem",
                "effects.after_write",
            )
        known = node.meta.get("concrete")
        assert not isinstance(known, FakeTensor)
        assert "val" in node.meta
    if not kwargs:
        assert _places(exported) == _places(recorded)


def _places(graph: ModelGraph) -> list[tuple[str, str, str, bool]]:
    """Op, module, line and grad flag of all nodes, sorted; export leaves out a detach, and copies constants."""
    return sorted(
        (op_name(node).removesuffix("_copy"), node.meta["module"], node.meta["source"], node.meta["grad"])
        for node in graph.graph.nodes
        if node.op == "call_function" and op_name(node) != "aten.detach"
    )


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_export_cannot_run_the_recorder_runs_and_says_so(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    model, (args, kwargs) = ALL[name]()
    before, rng = state_of(model), rng_state()
    graph = trace(model, args, kwargs, "export")
    (note,) = graph.notes
    assert note.startswith("torch.export can't run this model") and re.search(REFUSED[name], note)
    assert graph.frontend.startswith("recorder")
    assert state_of(model) == before and rng_state() == rng
    assert nn.Module.__call__ is nn.Module._wrapped_call_impl
    assert capfd.readouterr().err == ""


class _Net(nn.Module):
    """Runs a function of itself and x as its forward."""

    def __init__(self, body: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.body = body

    def forward(self, x: Any) -> Any:
        return self.body(self, x)


def _roles(body: Callable[[Any, Any], Any]) -> dict[str, str]:
    model, x = _Net(body), torch.randn(4, 8)
    recorded, exported = normc.plan(model, (x,)), normc.plan(model, (x,), frontend="export")
    assert exported.hash == recorded.hash
    return {row.name: row.role for row in exported.rows if row.name.endswith("weight")}


def test_regions_without_gradients_and_of_other_precision_are_run_through() -> None:
    def body(net: Any, x: Tensor) -> Any:
        with torch.no_grad():
            target = net.b(x)
        with torch.autocast("cpu", torch.bfloat16):
            y = net.a(x)
        return net.head(y.float() + target)

    assert _roles(body) == {"a.weight": "input", "b.weight": "unused", "head.weight": "output"}
    graph = trace(_Net(body), (torch.randn(4, 8),), {}, "export")
    lines = {node.meta["module"]: node for node in graph.graph.nodes if op_name(node) == "aten.linear"}
    assert [lines[name].meta["grad"] for name in ("a", "b", "head")] == [True, False, True]
    assert lines["a"].meta["val"].dtype == torch.bfloat16


def test_a_checkpoint_that_switches_gradients_off_hides_no_weight() -> None:
    graph = trace(awkward.Checkpointed(), (torch.randn(2, 4),), {}, "export")
    assert all(node.meta["grad"] for node in graph.graph.nodes if node.op == "call_function")


def test_a_write_through_a_view_is_dataflow() -> None:
    def body(net: Any, x: Tensor) -> Any:
        y = net.a(x)
        y[:, :2] += net.b(x)[:, :2]
        return net.head(y)

    assert _roles(body)["b.weight"] == "input"
    graph = trace(_Net(body), (torch.randn(4, 8),), {}, "export")
    assert any(node.target is after_write for node in graph.graph.nodes)


def test_a_weight_that_only_a_branch_reads_is_read() -> None:
    assert _roles(lambda net, x: net.head(torch.cond(x.sum() > 100, net.a, net.b, (x,))))["b.weight"] == "input"


def test_two_lines_of_a_method_with_another_name_are_two_sources() -> None:
    class Helped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(4, 4))

        def help(self, x: Tensor) -> Tensor:
            x = x @ self.w
            return x @ self.w

        def forward(self, x: Tensor) -> Tensor:
            return self.help(x)

    nodes = trace(Helped(), (torch.randn(2, 4),), {}, "export").graph.nodes
    line = Helped.help.__code__.co_firstlineno
    sources = [node.meta["source"] for node in nodes if op_name(node) == "aten.matmul"]
    assert sources == [f"test_export.py:{line + 1}", f"test_export.py:{line + 2}"]


def test_inputs_and_outputs_may_be_anything() -> None:
    model = _Net(lambda net, x: awkward.Result(net.head(net.a(x["deep"][0]) * x["scale"]), x["note"]))
    inputs = {"deep": [torch.randn(4, 8), 3], "scale": torch.ones(8), "note": "kept"}
    recorded, exported = trace(model, (inputs,), {}), trace(model, (inputs,), {}, "export")
    named = [
        [node.meta["input"] for node in graph.graph.nodes if "input" in node.meta] for graph in (recorded, exported)
    ]
    assert named[0] == named[1] == ["x.deep.0", "x.scale"]
    assert len(exported.graph.output_node().args[0]) == 1  # type: ignore[arg-type]  # a tuple of nodes


def test_a_compiled_model_without_weights_keeps_its_ties_and_names() -> None:
    with torch.device("meta"):
        model = _Net(lambda net, x: net.head(net.b(net.a(x))))
    model.b.weight = model.a.weight
    compiled: Any = torch.compile(model)
    graph = trace(compiled, (torch.randn(4, 8),), {}, "export")
    first = graph.parameters[0]
    assert (first.name, first.aliases) == ("_orig_mod.a.weight", ("_orig_mod.b.weight",))
    assert len(graph.nodes[first.name].users) == 2
    assert model.a.weight.is_meta and model.b.weight is model.a.weight


def test_hooks_run_and_stay() -> None:
    model = _Net(lambda net, x: net.head(net.a(x)))
    model.a.register_forward_hook(lambda module, given, out: model.b(out))
    plan = normc.plan(model, (torch.randn(4, 8),), frontend="export")
    assert {row.name: row.role for row in plan.rows}["b.weight"] == "hidden"
    assert len(model.a._forward_hooks) == 1


def test_tensors_that_a_model_hides_are_not_written_to() -> None:
    def body(net: Any, x: Tensor) -> Any:
        constant = torch.tensor([1.0, 2.0])
        constant.mul_(2)
        with torch.no_grad():
            net.hidden[0].weight.mul_(0.5).add_(net.a.weight)
        net.seen["mean"].add_(x.mean(0))
        return net.head(net.hidden[1](net.hidden[0](net.a(x))) + net.seen["mean"]) * constant.sum()

    model: Any = _Net(body)
    model.hidden = [nn.Linear(8, 8), nn.BatchNorm1d(8)]
    model.seen = {"mean": torch.zeros(8)}
    outside = [*model.hidden[0].parameters(), *model.hidden[1].buffers(), model.seen["mean"]]
    before = [(tensor.clone(), tensor._version) for tensor in outside]
    x = torch.randn(4, 8)
    graph = trace(model, (x,), {}, "export")
    for tensor, (value, version) in zip(outside, before, strict=True):
        assert torch.equal(tensor, value) and tensor._version == version
    feeds = feeds_of(graph, model, (x,), {})
    (got,) = replay(graph, feeds)
    torch.testing.assert_close(got, model(x).detach())


def test_an_unknown_frontend_is_said_at_once() -> None:
    with pytest.raises(normc.NormcError, match="no frontend is called 'jit'") as caught:
        normc.plan(nn.Linear(2, 2), torch.ones(1, 2), frontend="jit")
    assert caught.value.fix == "known: recorder, export"
    with pytest.raises(normc.NormcError, match="no frontend"):
        normc.compile(nn.Linear(2, 2), lr=0.1, frontend="jit")  # would wait for a first forward


def test_a_model_that_waits_for_its_first_forward_is_exported_then() -> None:
    model, x = _Net(lambda net, x: net.head(net.b(net.a(x)).relu())), torch.randn(4, 8)
    opt = normc.compile(model, lr=0.1, frontend="export", compile=False)
    model(x).sum().backward()
    opt.step()
    assert opt.plan.hash == normc.plan(model, (x,)).hash
