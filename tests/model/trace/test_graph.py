"""What is on the nodes: dataflow through writes, provenance, known values, guesses, names."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor

from normc.model.trace.effects import after_write
from normc.model.trace.frontend import trace
from normc.model.trace.graph import ModelGraph
from normc.nodes import op_name
from tests.model.trace import awkward
from tests.model.trace.zoo import ALL

aten = torch.ops.aten


def _calls(graph: ModelGraph, name: str) -> list[Any]:
    return [node for node in graph.graph.nodes if node.op == "call_function" and op_name(node) == name]


def _reaches(node: fx.Node, source: fx.Node) -> bool:
    seen, waiting = {node}, [node]
    while waiting:
        for parent in waiting.pop().all_input_nodes:
            if parent not in seen:
                seen.add(parent)
                waiting.append(parent)
    return source in seen


class _Line(nn.Module):
    """Runs a function of (x, w) as its forward."""

    def __init__(self, body: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(4, 4))
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x, self.w)


def _outputs(graph: ModelGraph) -> Any:
    return graph.graph.output_node().args[0]


def test_a_whole_write_is_the_new_value() -> None:
    def body(x: Tensor, w: Tensor) -> Tensor:
        y = x @ w
        y.add_(1.0)
        return y.mul(2)

    graph = trace(_Line(body), (torch.randn(2, 4),), {})
    (out,) = _outputs(graph)
    assert op_name(out.args[0]) == "aten.add_"
    assert not _calls(graph, "effects.after_write")


def test_a_write_through_a_view_reaches_later_reads_of_the_base() -> None:
    def body(x: Tensor, w: Tensor) -> Tensor:
        y = x.clone()
        first = y[:, :2]
        first.copy_((x @ w)[:, :2])
        return y * 2

    graph = trace(_Line(body), (torch.randn(2, 4),), {})
    (out,) = _outputs(graph)
    assert out.args[0].target is after_write
    old, write = out.args[0].args
    assert (op_name(old), op_name(write)) == ("aten.clone", "aten.copy_")
    assert _reaches(out, graph.nodes["w"])
    assert out.args[0].meta["val"].shape == (2, 4)


def test_an_op_that_gives_back_its_operand_is_no_node_and_lists_are_taken_apart() -> None:
    graph = trace(_Line(lambda x, w: (x @ w).contiguous().chunk(2, -1)[1]), (torch.randn(2, 4),), {})
    (out,) = _outputs(graph)
    assert out.target is operator.getitem and out.args[1] == 1
    assert op_name(out.args[0]) == "aten.chunk" and op_name(out.args[0].args[0]) == "aten.matmul"


def test_a_shape_changed_in_place_leaves_every_earlier_value_as_it_was() -> None:
    def body(x: Tensor, w: Tensor) -> Tensor:
        y = x @ w
        y.add_(1.0)
        y[:, :2].mul_(2.0)
        return y.unsqueeze_(0) * 2

    graph = trace(_Line(body), (torch.randn(2, 4),), {})
    named = ("aten.matmul", "aten.add_", "effects.after_write")
    assert all(node.meta["val"].shape == (2, 4) for name in named for node in _calls(graph, name))


def test_a_shape_changed_in_place_leaves_the_earlier_value_as_it_was() -> None:
    graph = trace(_Line(lambda x, w: (x @ w).unsqueeze_(0)), (torch.randn(2, 4),), {})
    (out,) = _outputs(graph)
    assert out.meta["val"].shape == (1, 2, 4)
    assert out.args[0].meta["val"].shape == (2, 4)


@pytest.mark.parametrize("name", ALL)
def test_every_node_has_what_the_contract_says(name: str) -> None:
    model, (args, kwargs) = ALL[name]()
    graph = trace(model, args, kwargs)
    graph.graph.lint()
    assert set(graph.nodes) == {name for name, _ in model.named_parameters()}
    paths = {path for path, _ in model.named_modules()}
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            assert sum(kind in node.meta for kind in ("param", "buffer", "input")) == 1
        elif node.op == "call_function":
            assert node.meta["module"] in paths
            assert isinstance(node.meta["grad"], bool)
        assert "val" in node.meta
        known = node.meta.get("concrete")
        if isinstance(known, Tensor):
            assert not isinstance(known, FakeTensor) and known.shape == node.meta["val"].shape
        assert not any(isinstance(value, Tensor) for value in node.args), "a tensor was baked in"


def test_composite_ops_stay_whole() -> None:
    model = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    names = {op_name(node) for node in trace(model, (torch.randn(2, 5, 16),), {}).graph.nodes}
    assert {"aten.linear", "aten.layer_norm", "aten.scaled_dot_product_attention"} <= names
    assert not {"aten.native_layer_norm", "aten.addmm", "aten._transformer_encoder_layer_fwd"} & names


def test_source_and_module_are_the_models_own() -> None:
    graph = trace(ALL["nanogpt"]()[0], (torch.tensor([[5, 3, 5, 9]]),), {})
    softmax = _calls(graph, "aten.softmax")[1]
    assert softmax.meta["module"] == "blocks.1.attn"
    assert softmax.meta["source"].startswith("nano_gpt.py:")
    assert graph.describe(softmax) == f"aten.softmax ({softmax.meta['source']})"


def test_known_values_are_kept_and_stay_what_they_were() -> None:
    def body(x: Tensor, w: Tensor) -> Tensor:
        mask = torch.zeros(4)
        mask[1:3].fill_(2.0)
        mask.add_(1.0)
        noise = torch.rand(4)
        return (x @ w) * mask + noise

    graph = trace(_Line(body), (torch.randn(2, 4),), {})
    zeros, add, rand = (_calls(graph, name)[0] for name in ("aten.zeros", "aten.add_", "aten.rand"))
    assert zeros.meta["concrete"].tolist() == [0, 0, 0, 0]
    assert add.meta["concrete"].tolist() == [1, 3, 3, 1]
    assert "concrete" not in rand.meta
    assert "concrete" not in _calls(graph, "aten.matmul")[0].meta


def test_a_write_of_something_unknown_makes_a_known_value_unknown() -> None:
    def body(x: Tensor, w: Tensor) -> Tensor:
        y = torch.zeros(4, 4)
        y[0].copy_(w[0])
        return x @ y.exp()

    graph = trace(_Line(body), (torch.randn(2, 4),), {})
    assert "concrete" in _calls(graph, "aten.zeros")[0].meta
    assert "concrete" not in _calls(graph, "aten.exp")[0].meta


def test_questions_about_weights_are_guessed_and_said() -> None:
    def body(x: Tensor, w: Tensor) -> Tensor:
        return x @ w if (w.sum() > 0) else x - w[0]

    graph = trace(_Line(body), (torch.randn(2, 4),), {})
    (asked,) = (node for node in graph.graph.nodes if "guessed" in node.meta)
    assert asked.meta["guessed"] == "answered True"
    assert len(graph.guesses) == 1 and "test_graph.py:" in graph.guesses[0]
    assert _calls(graph, "aten.matmul")


def test_another_answer_is_given_when_the_first_fails() -> None:
    def body(x: Tensor, w: Tensor) -> Tensor:
        if w.sum() > 1e9:
            raise ValueError("weights have diverged")
        return x @ w

    graph = trace(_Line(body), (torch.randn(2, 4),), {})
    (guess,) = graph.guesses
    assert guess.endswith("answered False")


def test_gradients_inside_forward_are_traced_after_autograd() -> None:
    graph = trace(awkward.Force(), (torch.randn(2, 3),), {})
    assert graph.frontend == "recorder after autograd"
    assert all(_reaches(_outputs(graph)[0], graph.nodes[f"energy.{name}"]) for name in ("0.weight", "2.weight"))


def test_grad_is_off_under_no_grad_and_on_inside_a_custom_function() -> None:
    graph = trace(awkward.Custom(), (torch.randn(2, 4),), {})
    assert _calls(graph, "aten.matmul")[0].meta["grad"] is True
    assert _calls(graph, "aten.mean")[0].meta["grad"] is False


def test_ties_have_one_placeholder_and_unused_parameters_have_one_too() -> None:
    model = awkward.Listed()
    graph = trace(model, (torch.randn(2, 4),), {})
    by_name = {parameter.name: parameter for parameter in graph.parameters}
    assert by_name["again"].aliases == ("weights.0",)
    assert set(by_name) == {"again", "unused", "weights.1", "weights.2"}
    assert len(graph.nodes["weights.1"].users) == 2
    assert not graph.nodes["unused"].users


def test_names_cannot_become_code() -> None:
    model = nn.Module()
    model.register_parameter("x=print(1)):\n  pass #", nn.Parameter(torch.ones(2)))
    model.register_parameter("a b", nn.Parameter(torch.ones(2)))
    model.register_parameter("a_b", nn.Parameter(torch.ones(2)))
    model.forward = lambda x: x * sum(model.parameters())
    graph = trace(model, (torch.ones(2),), {})
    targets = [node.target for node in graph.graph.nodes if node.op == "placeholder"]
    assert len(set(targets)) == 4 and all(target.isidentifier() for target in targets)
    compile(graph.graph.python_code("self").src, "graph", "exec")


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "t5", "vit", "resnet", "nanogpt"])
def test_meta_models_give_the_graph_of_real_ones(name: str) -> None:
    real, (args, kwargs) = ALL[name]()
    with torch.device("meta"):
        meta, _ = ALL[name]()
    assert next(meta.parameters()).device.type == "meta"

    def shown(model: nn.Module) -> list[object]:
        nodes = [node for node in trace(model, args, kwargs).graph.nodes if node.op == "call_function"]
        return [(op_name(node), node.meta["module"], getattr(node.meta["val"], "shape", None)) for node in nodes]

    assert shown(meta) == shown(real)
    assert all(parameter.device.type == "meta" for parameter in meta.parameters())


def test_meta_inputs_are_enough() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).to("meta")
    graph = trace(model, (torch.empty(3, 4, device="meta"),), {})
    assert _outputs(graph)[0].meta["val"].shape == (3, 2)
    assert _outputs(graph)[0].meta["val"].device.type == "cpu"


def test_tracing_twice_gives_the_same_graph() -> None:
    model, (args, kwargs) = ALL["gpt2"]()
    first, second = (trace(model, args, kwargs).graph for _ in range(2))
    torch.manual_seed(5)
    assert str(first) == str(second) == str(trace(model, args, kwargs).graph)


def test_what_autograd_runs_in_a_forward_is_marked() -> None:
    def by_hand(x: Tensor, w: Tensor) -> Tensor:
        x = x.requires_grad_(True)
        return torch.autograd.grad((x @ w).tanh().sum(), x, create_graph=True)[0] * 2

    def by_func(x: Tensor, w: Tensor) -> Tensor:
        return torch.func.vmap(torch.func.grad(lambda row: (row @ w).tanh().sum()))(x) * 2

    for body in (by_hand, by_func):
        graph = trace(_Line(body), (torch.randn(2, 4),), {})
        marked = {op_name(node) for node in graph.graph.nodes if "backward" in node.meta}
        plain = {op_name(node) for node in graph.graph.nodes if "backward" not in node.meta}
        assert "aten.tanh_backward" in marked
        assert "aten.tanh_backward" not in plain
        assert {"aten.tanh", "aten.mul"} <= plain
