"""Writes that autograd doesn't record: a parameter stays the leaf that it is, an activation keeps its gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import normc
from normc.model.trace.effects import after_write
from normc.model.trace.frontend import trace

Body = Callable[["Net", Tensor], Any]


class Net(nn.Module):
    """A weight of its own, a buffer, a table and a head; the body says what is done before the plain forward."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.w, self.head = nn.Parameter(torch.randn(6, 4) * 0.3), nn.Linear(6, 3)
        self.body = body
        self.kept: Tensor
        self.register_buffer("kept", torch.zeros(5, 6))

    def forward(self, x: Tensor) -> Any:
        """x: [5, 4]."""
        out = self.body(self, x)
        return self.head(F.linear(x, self.w).relu()) if out is None else out


def written(body: Body) -> Body:
    """The same without gradients."""

    def without(net: Net, x: Tensor) -> None:
        with torch.no_grad():
            body(net, x)

    return without


def _assigned(net: Net, x: Tensor) -> None:
    net.w.data = F.normalize(net.w.data, dim=1)


def _through_data(net: Net, x: Tensor) -> None:
    net.w.data[2:].clamp_(-1, 1)


def _detached(net: Net, x: Tensor) -> None:
    net.w.detach().mul_(0.5)


def _halved_behind_a_view(net: Net, x: Tensor) -> Tensor:
    first = net.w[:3]
    with torch.no_grad():
        net.w.mul_(0.5)
    return net.head(torch.cat([F.linear(x, first), F.linear(x, net.w[3:])], -1))


def _between(net: Net, x: Tensor) -> Tensor:
    before = F.linear(x, net.w)
    with torch.no_grad():
        net.w.mul_(1 / net.w.norm())
    return net.head(before + F.linear(x, net.w))


def _indexed(net: Net, x: Tensor) -> None:
    net.w[torch.arange(2)] = 0.0


def _masked(net: Net, x: Tensor) -> None:
    net.w[net.w.abs() < 0.01] = 0.0


def _set(net: Net, x: Tensor) -> None:
    net.w[...] = F.normalize(net.w)


WRITES: dict[str, Body] = {
    "copied": written(lambda net, x: net.w.copy_(F.normalize(net.w, dim=1))),
    "divided": written(lambda net, x: net.w.div_(2)),
    "by the data's size": written(lambda net, x: net.w.div_(x.abs().max())),
    "clamped in a slice": written(lambda net, x: net.w[2:].clamp_(-1, 1)),
    "a view of all": written(lambda net, x: net.w.view(-1)[3:7].zero_()),
    "renormed": written(lambda net, x: net.w.renorm_(2, 0, 1.0)),
    "several at once": written(lambda net, x: torch._foreach_mul_([net.w, net.head.weight], 0.9)),
    "out=": written(lambda net, x: torch.mul(net.w, 0.5, out=net.w)),
    "every parameter": written(lambda net, x: [p.mul_(0.99) for p in net.parameters()]),
    "set": written(_set),
    "indexed": written(_indexed),
    "masked": written(_masked),
    "data assigned": _assigned,
    "through data": _through_data,
    "detached": _detached,
    "behind a view": _halved_behind_a_view,
    "between two uses": _between,
}


def _learning(net: Net, x: Tensor) -> dict[str, bool]:
    """Which parameters autograd reaches."""
    net(x).sum().backward()
    return {name: parameter.grad is not None for name, parameter in net.named_parameters()}


@pytest.mark.parametrize("frontend", ["recorder", "export"])
@pytest.mark.parametrize("how", sorted(WRITES))
def test_a_parameter_that_is_written_to_stays_a_parameter(how: str, frontend: str) -> None:
    x = torch.randn(5, 4)
    plan = normc.plan(Net(WRITES[how]), x, frontend=frontend)
    assert _learning(Net(WRITES[how]), x) == {row.name: row.role != "unused" for row in plan.rows}
    row = plan["w"]
    assert (row.role, row.in_axes, row.out_axes, row.norm, row.fallback) == ("input", (1,), (0,), "spectral", None)
    assert plan["head.weight"].role == "output"


def test_a_write_changes_no_number_of_the_plan() -> None:
    x = torch.randn(5, 4)
    plain = normc.plan(Net(lambda net, x: None), x)
    assert {normc.plan(Net(WRITES[how]), x).hash for how in ("copied", "by the data's size", "set", "detached")} == {
        plain.hash
    }


def _clamped(net: Net, x: Tensor) -> Tensor:
    h = F.linear(x, net.w)
    with torch.no_grad():
        h.clamp_(-1, 1)
    return net.head(h)


def _clamped_data(net: Net, x: Tensor) -> Tensor:
    h = F.linear(x, net.w)
    h.data.clamp_(-1, 1)
    return net.head(h)


def _cut(net: Net, x: Tensor) -> Tensor:
    h = F.linear(x, net.w)
    with torch.no_grad():
        h[:, :2] = 0.0
    return net.head(h)


@pytest.mark.parametrize("body", [_clamped, _clamped_data, _cut])
def test_the_gradient_of_an_activation_goes_past_a_write_without_gradients(body: Body) -> None:
    x = torch.randn(5, 4)
    plan = normc.plan(Net(body), x)
    assert _learning(Net(body), x) == {row.name: row.role != "unused" for row in plan.rows}
    assert plan["w"].role == "input" and (plan["w"].sensitivity or 0) >= 1


def _through_a_buffer(net: Net, x: Tensor) -> Tensor:
    with torch.no_grad():
        net.kept.copy_(F.linear(x, net.w))
    return net.head(net.kept)


def test_a_buffer_written_without_gradients_is_no_way_for_one() -> None:
    x = torch.randn(5, 4)
    plan = normc.plan(Net(_through_a_buffer), x)
    assert plan["w"].role == "unused" and plan["head.weight"].role != "unused"
    nodes = trace(Net(_through_a_buffer), (x,), {}).graph.nodes
    assert not any(node.target is after_write for node in nodes)  # the value is what was written


class Table(nn.Module):
    def __init__(self, kind: type[nn.Module], **options: float) -> None:
        super().__init__()
        self.table, self.head = kind(30, 8, **options), nn.Linear(8, 2)

    def forward(self, ids: Tensor) -> Tensor:
        """ids: [4, 5]."""
        return self.head(self.table(ids).tanh())


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_a_table_with_a_largest_norm_is_a_table(kind: type[nn.Module]) -> None:
    ids = torch.randint(30, (4, 5), generator=torch.Generator().manual_seed(0))
    bounded, plain = normc.plan(Table(kind, max_norm=1.0), ids), normc.plan(Table(kind), ids)
    assert (bounded["table.weight"].role, bounded["table.weight"].norm) == ("embedding", "colnorm")
    assert bounded.hash == plain.hash


def _power(left: Callable[[Tensor, Tensor], Tensor], right: Callable[[Tensor, Tensor], Tensor]) -> Body:
    """A spectral norm by hand: one round of a power iteration without gradients, kept in a buffer."""

    def body(net: Net, x: Tensor) -> Tensor:
        u = net.kept[0]
        with torch.no_grad():
            v = F.normalize(right(net.w, u), dim=0)
            u.copy_(F.normalize(left(net.w, v), dim=0))
        return net.head(F.linear(x, net.w / (u @ net.w @ v)).relu())

    return body


@pytest.mark.parametrize(
    "body",
    [
        _power(lambda w, v: w @ v, lambda w, u: w.t() @ u),
        _power(torch.mv, lambda w, u: torch.mv(w.t(), u)),
        _power(lambda w, v: torch.einsum("oi,i->o", w, v), lambda w, u: torch.einsum("oi,o->i", w, u)),
    ],
    ids=["matmul", "mv", "einsum"],
)
def test_a_power_iteration_says_nothing_of_the_weights_axes(body: Body) -> None:
    plan = normc.plan(Net(body), torch.randn(5, 4))
    assert (plan["w"].role, plan["w"].in_axes, plan["w"].out_axes) == ("input", (1,), (0,))


def _into(detached: bool) -> Body:
    def body(net: Net, x: Tensor) -> Tensor:
        h = F.linear(x, net.w).relu()
        kept = torch.zeros_like(h)
        kept = kept.detach() if detached else kept
        kept[:, :3] = h[:, :3]
        return net.head(kept)

    return body


def test_a_gradient_goes_through_a_write_into_what_was_detached_before() -> None:
    x = torch.randn(5, 4)
    detached, plain = normc.plan(Net(_into(True)), x)["w"], normc.plan(Net(_into(False)), x)["w"]
    assert detached.sensitivity and detached.sensitivity == plain.sensitivity
