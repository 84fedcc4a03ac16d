"""Higher-order ops run in sight: both branches, loops step by step, and what their functions read from outside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._higher_order_ops.associative_scan import associative_scan
from torch._higher_order_ops.map import map as each
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import normc
from normc.model.trace.frontend import trace
from normc.model.trace.replay import feeds_of, replay
from normc.nodes import op_name


class Net(nn.Module):
    """A first and a last layer around what is tried out."""

    def __init__(self, body: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.stem, self.head, self.body = nn.Linear(6, 8), nn.Linear(8, 3), body
        self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.qkv, self.slope, self.decay = nn.Linear(8, 24), nn.Parameter(torch.randn(2)), nn.Parameter(torch.rand(8))

    def forward(self, x: Tensor) -> Tensor:
        """x: [4, 5, 6]."""
        return self.head(self.body(self, self.stem(x)))


def _cond(net: Any, h: Tensor) -> Any:
    return torch.cond(h.mean() > 0, lambda h: net.a(h), lambda h: net.b(h), (h,))


def _nested(net: Any, h: Tensor) -> Any:
    inner = lambda h: torch.cond(h.sum() > 1, net.a, net.b, (h,))  # noqa: E731
    return torch.cond(h.mean() > 0, inner, lambda h: net.c(h), (h,))


def _pair(net: Any, h: Tensor) -> Any:
    first, second = torch.cond(h.mean() > 0, lambda h: (net.a(h), h * 2), lambda h: (h * 3, net.b(h)), (h,))
    return first + second


def _known(net: Any, h: Tensor) -> Any:
    return torch.cond(torch.tensor([True]), lambda h: net.a(h), lambda h: net.b(h), (h,))


def _scan(net: Any, h: Tensor) -> Any:
    def step(state: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        new = (net.b(state) + y).tanh()
        return new, new.clone()

    return scan(step, torch.zeros(4, 8), net.a(h).transpose(0, 1))[1].transpose(0, 1)


def _while(net: Any, h: Tensor) -> Any:
    start = (torch.tensor(0), h)
    return while_loop(lambda i, z: i < 3, lambda i, z: (i + 1, net.b(net.a(z)).tanh()), start)[1]


def _map(net: Any, h: Tensor) -> Any:
    over: Any = each  # torch's types ask for tuples, its code does not
    return over(lambda y: net.a(y).tanh() @ net.b.weight, h)


BODIES: dict[str, tuple[Callable[[Any, Tensor], Any], set[str]]] = {
    "cond": (_cond, {"a", "b"}),
    "nested cond": (_nested, {"a", "b", "c"}),
    "a pair of results": (_pair, {"a", "b"}),
    "a known predicate": (_known, {"a", "b"}),
    "scan": (_scan, {"a", "b"}),
    "while": (_while, {"a", "b"}),
    "map": (_map, {"a", "b"}),
    "vmap": (lambda net, h: torch.vmap(lambda y: net.b(net.a(y).tanh()))(h), {"a", "b"}),
    "called with others": (
        lambda net, h: torch.func.functional_call(net.a, {"weight": net.b.weight * 2, "bias": net.b.bias}, (h,)),
        {"b"},
    ),
}


@pytest.mark.parametrize("how", sorted(BODIES))
def test_all_that_it_may_run_is_hidden(how: str) -> None:
    body, read = BODIES[how]
    plan = normc.plan(Net(body), torch.randn(4, 5, 6))
    roles = {name: plan[f"{name}.weight"].role for name in "abc"}
    assert roles == {name: "hidden" if name in read else "unused" for name in "abc"}
    assert (plan["stem.weight"].role, plan["head.weight"].role) == ("input", "output")
    assert not any(row.fallback for row in plan.rows) and not any("guess" in note for note in plan.notes)


@pytest.mark.parametrize("bound", [-100.0, 100.0])
def test_both_branches_give_what_the_one_taken_gives(bound: float) -> None:
    model = Net(lambda net, h: torch.cond(h.mean() > bound, lambda h: net.a(h), lambda h: net.b(h).sin(), (h,)))
    x = torch.randn(4, 5, 6)
    graph = trace(model, (x,), {})
    (got,) = replay(graph, feeds_of(graph, model, (x,), {}))
    torch.testing.assert_close(got, model(x).detach())
    assert {"aten.sin", "aten.where"} <= {op_name(node) for node in graph.graph.nodes}


def test_operands_of_branches_are_seen_by_both_frontends() -> None:
    def body(net: Any, h: Tensor) -> Any:
        return torch.cond(h.sum() > 9, lambda y, w: y @ w, lambda y, w: (y @ w).sin(), (net.a(h), net.b.weight))

    for frontend in ("recorder", "export"):
        assert normc.plan(Net(body), torch.randn(4, 5, 6), frontend=frontend)["b.weight"].role == "hidden"


def test_an_associative_scan_is_run() -> None:
    model = Net(lambda net, h: associative_scan(lambda x, y: x * net.decay + y, h, 1, combine_mode="generic"))
    assert normc.plan(model, torch.randn(4, 5, 6))["decay"].role == "gain"


def _attention(net: Any, h: Tensor, score: Any = None, mask: Any = None) -> Tensor:
    q, k, v = net.qkv(h).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
    blocks = None if mask is None else create_block_mask(mask, None, None, 5, 5, device="cpu")
    return flex_attention(q, k, v, score_mod=score, block_mask=blocks).transpose(1, 2).flatten(2)


def _causal(b: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
    return i >= j


@pytest.mark.parametrize("mask", [None, _causal])
def test_a_parameter_of_a_score_function_is_read(mask: Any) -> None:
    def body(net: Any, h: Tensor) -> Tensor:
        return _attention(net, h, lambda s, b, head, i, j: s * net.slope[head] + net.decay[i - j], mask)

    plan = normc.plan(Net(body), torch.randn(4, 5, 6))
    assert plan["slope"].role == "gain" and plan["decay"].role != "unused"
    assert [block.size for block in plan["qkv.weight"].blocks] == [8, 8, 8]


def test_attention_that_is_only_masked_is_one_op_and_masks_alike() -> None:
    model, x = Net(lambda net, h: _attention(net, h, mask=_causal)), torch.randn(4, 5, 6)
    graph = trace(model, (x,), {})
    assert "aten.scaled_dot_product_attention" in {op_name(node) for node in graph.graph.nodes}
    with torch.no_grad():
        wanted = model(x)
    torch.testing.assert_close(replay(graph, feeds_of(graph, model, (x,), {}))[0], wanted)


def test_scores_are_changed_as_the_function_says() -> None:
    def body(net: Any, h: Tensor) -> Tensor:
        return _attention(net, h, lambda s, b, head, i, j: s + net.slope[head] * (i - j), _causal)

    model, x = Net(body), torch.randn(4, 5, 6)
    graph = trace(model, (x,), {})
    with torch.no_grad():
        wanted = model(x)
    torch.testing.assert_close(replay(graph, feeds_of(graph, model, (x,), {}))[0], wanted)
