"""Paths that one example doesn't take: the one that reads most is planned, and others for what it doesn't read."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import normc
from normc.model.trace.frontend import trace
from normc.model.trace.recorder import Recorder

Body = Callable[[Any, Tensor], Any]


class Net(nn.Module):
    """Layers of which the body reads some."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(4, 8), nn.Linear(8, 3)
        self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.gate, self.experts = nn.Linear(8, 5), nn.ModuleList(nn.Linear(8, 8) for _ in range(5))
        self.body = body

    def forward(self, x: Tensor) -> Any:
        """x: [6, 4]."""
        return self.body(self, self.stem(x).tanh())


def _either(net: Any, h: Tensor) -> Tensor:
    return net.head(net.a(h) if h.mean() > 0 else net.b(h))


def _one_of_three(net: Any, h: Tensor) -> Tensor:
    if h.mean() > 0:
        return net.head(net.a(h))
    return net.head(net.b(h) if h.std() > 1 else net.c(h))


def _on_one_line(net: Any, h: Tensor) -> Tensor:
    return net.head(net.a(h) if h.mean() > 0 else net.b(h) if h.std() > 1 else net.c(h))


def _early_exit(net: Any, h: Tensor) -> Tensor:
    return net.head(h) if h.abs().mean() > 1 else net.head(net.b(net.a(h)).tanh())


def _by_a_number(net: Any, h: Tensor) -> Tensor:
    return net.head(net.a(h) if h.mean().item() > 10 else net.b(h))


def _by_an_equality(net: Any, h: Tensor) -> Tensor:
    return net.head(net.a(h) if h.argmax() == 3 else net.b(h))


def _chosen_by_number(net: Any, h: Tensor) -> Tensor:
    return net.head(net.experts[int(net.gate(h).mean(0).argmax())](h))


def _as_many_as(net: Any, h: Tensor) -> Tensor:
    for number in range(int(h.mean(-1).argmax())):
        h = net.experts[number](h).tanh()
    return net.head(h)


def _settles(net: Any, h: Tensor) -> Tensor:
    z = torch.zeros_like(h)
    for _ in range(30):
        new = torch.tanh(0.3 * net.a(z) + net.b(h))
        if (new - z).norm() < 1e-4:
            break
        z = new
    return net.head(z)


READ: dict[str, tuple[Body, set[str]]] = {
    "either": (_either, {"a", "b"}),
    "one of three": (_one_of_three, {"a", "b", "c"}),
    "on one line": (_on_one_line, {"a", "b", "c"}),
    "early exit": (_early_exit, {"a", "b"}),
    "by a number": (_by_a_number, {"a", "b"}),
    "by an equality": (_by_an_equality, {"a", "b"}),
    "chosen by number": (_chosen_by_number, {f"experts.{n}" for n in range(5)}),
    "as many as": (_as_many_as, {f"experts.{n}" for n in range(5)}),
    "settles": (_settles, {"a", "b"}),
}


@pytest.mark.parametrize("how", sorted(READ))
def test_what_any_path_reads_has_the_role_of_its_use(how: str) -> None:
    body, read = READ[how]
    plan = normc.plan(Net(body), torch.randn(6, 4))
    for row in plan.rows:
        layer, _, kind = row.name.rpartition(".")
        used = layer in {*read, "stem", "head"}
        wanted = {"stem": "input", "head": "output"}.get(layer, "hidden") if used else "unused"
        assert row.role == (wanted if kind == "weight" or wanted == "unused" else "bias"), row.name
        assert (row.mass or 0) > 0 if row.target else row.role == "unused"
        assert row.fallback is None and (row.target > 0) == (row.role != "unused")
    assert sum(row.mass or 0 for row in plan.rows) == pytest.approx(1)


def test_a_row_of_another_path_says_so_and_has_the_numbers_of_its_kin() -> None:
    plan = normc.plan(Net(_either), torch.randn(6, 4))
    one, other = plan["a.weight"], plan["b.weight"]
    assert (one.sensitivity, one.mass, one.norm, one.in_axes) == (other.sensitivity, other.mass, other.norm, (1,))
    assert [found.fact for found in other.evidence].count("role") == 1
    (said,) = (found.claim for found in other.evidence if found.fact == "path")
    assert said.startswith("read on the path that is taken if the answer is False at test_paths.py:")
    (note,) = (note for note in plan.notes if note.startswith("2 parameters are planned on the path"))
    assert note.endswith("b.weight, b.bias")


def test_the_path_that_reads_most_is_the_models() -> None:
    graph = trace(Net(_early_exit), (torch.randn(6, 4),), {})
    assert graph.others == () and graph.guesses[0].endswith("answered False")


def test_the_step_moves_what_has_a_gradient() -> None:
    torch.manual_seed(0)
    model, x = Net(_either), torch.randn(6, 4)
    opt = normc.compile(model, x, lr=0.1, compile=False)
    for bias in (3.0, -3.0):
        nn.init.constant_(model.stem.bias, bias)
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        opt.zero_grad()
        model(x).square().mean().backward()
        opt.step()
        moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
        layers = ("stem", "head", "a" if bias > 0 else "b")
        assert moved == {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}


def test_inputs_that_are_known_decide_the_path_and_the_rest_is_still_planned() -> None:
    class ByLength(Net):
        def forward(self, x: Tensor, lengths: Tensor) -> Any:  # type: ignore[override]  # one input more
            h = self.stem(x).tanh()
            return self.head(self.a(h) if lengths.max() > 5 else self.b(h)) + 0 * lengths.sum()

    graph = trace(ByLength(_either), (torch.randn(6, 4), torch.tensor([3, 9])), {})
    (other,) = graph.others
    assert not graph.guesses and other.reads == ("b.weight", "b.bias")
    plan = normc.plan(ByLength(_either), (torch.randn(6, 4), torch.tensor([3, 9])))
    assert plan["a.weight"].role == plan["b.weight"].role == "hidden"


def _experts(skip: str) -> Body:
    def body(net: Any, h: Tensor) -> Tensor:
        weights, chosen = net.gate(h).softmax(-1).topk(2)
        hits, out = F.one_hot(chosen, 5).permute(2, 1, 0), torch.zeros_like(h)
        for index in (hits.sum((-1, -2)) > 0).nonzero():
            number = index[0]
            if skip == "padding" and number == 5:
                continue
            slot, token = torch.where(hits[number])
            if skip == "nobody" and token.numel() == 0:
                continue
            if skip == "not any" and not hits[number].any():
                continue
            rows = h[token] @ net.c.weight.view(1, 8, 8).expand(5, 8, 8)[number]
            out = out.index_add(0, token, rows * weights[token, slot, None])
        return net.head(out + net.a(h) + net.b(h) + sum(expert(h) for expert in net.experts))

    return body


@pytest.mark.parametrize("skip", ["padding", "nobody", "not any"])
def test_experts_are_run_at_once(skip: str) -> None:
    graph = trace(Net(_experts(skip)), (torch.randn(6, 4),), {})
    assert graph.others == () and not any("True" in guess for guess in graph.guesses if skip == "padding")
    assert normc.plan(Net(_experts(skip)), torch.randn(6, 4))["gate.weight"].role == "router"


def test_a_model_without_questions_is_traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from normc.model.trace import frontend

    count: list[object] = []
    climb = frontend._climb

    def counted(*args: Any) -> Any:
        count.append(args)
        return climb(*args)

    monkeypatch.setattr(frontend, "_climb", counted)
    trace(Net(lambda net, h: net.head(net.a(h))), (torch.randn(6, 4),), {})
    assert len(count) == 1


def test_another_size_of_several_paths_is_refused() -> None:
    plan = normc.plan(Net(_either), torch.randn(6, 4))
    with pytest.raises(normc.NormcError, match="planned on 2 paths"):
        plan.at(**{plan.dimensions[0].name: 16})


class Dropping(Net):
    """Leaves layers out by Python's or NumPy's random numbers while it trains, or takes one of several."""

    def forward(self, x: Tensor) -> Any:
        h = self.stem(x).tanh()
        for expert in self.experts:
            if self.training and self.body(self, h) < 0.5:
                continue
            h = expert(h).tanh()
        return self.head(h + self.a(h) + self.b(h) + self.c(h) + self.gate(h).mean())


@pytest.mark.parametrize("draw", [random.random, np.random.rand])
def test_layers_that_are_left_out_by_chance_are_planned(draw: Callable[[], float]) -> None:
    model = Dropping(lambda net, h: draw())
    states = random.getstate(), repr(np.random.get_state())
    plan = normc.plan(model, torch.randn(6, 4))
    assert all(row.role != "unused" for row in plan.rows)
    assert (random.getstate(), repr(np.random.get_state())) == states
    assert plan.hash == normc.plan(model, torch.randn(6, 4)).hash
    assert any("random numbers" in note for note in plan.notes)


def test_one_of_several_by_chance_is_each_of_them() -> None:
    model = Net(lambda net, h: net.head(random.choice([net.a, net.b, net.c])(h)))
    plan = normc.plan(model, torch.randn(6, 4))
    assert {plan[f"{layer}.weight"].role for layer in "abc"} == {"hidden"}


def test_another_path_that_is_far_longer_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def rounds(net: Any, h: Tensor) -> Tensor:
        for _ in range(int(1 / h.square().mean().item())):  # a million, if the mean is taken for a small number
            h = net.a(h).tanh()
        return net.head(h)

    graphs: list[Any] = []
    made = Recorder.__init__

    def kept(self: Recorder, *args: Any) -> None:
        made(self, *args)
        graphs.append(self.graph)

    monkeypatch.setattr(Recorder, "__init__", kept)
    plan = normc.plan(Net(rounds), torch.randn(6, 4))
    assert plan["a.weight"].role == "hidden"
    assert len(graphs) > 1 and max(len(graph.nodes) for graph in graphs) < 3_000
