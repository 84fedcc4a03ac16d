"""The update program: one torch.fx graph of update ops per row, and what the rewrites make of them.

A chain's placeholders, by `meta["kind"]`: "weight" w, "grad" g, "state" (by its name) and "number" (a group's value, as
lr). It returns (w, *states). All tensors are stacks [N, *shape] in the dtype that the state is kept in.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode

from normc.plans.row import Row
from normc.update.ops.matrices import polar
from normc.update.program.build import ANY_CPU, ON_CPU, Build, Device
from normc.update.runtime.codes import CODES, PASSING, SCALES, scale_of


@dataclass(frozen=True, slots=True)
class Decision:
    """What a rewrite did: `rule` did `what`, because of `why`; and what that saves."""

    rule: str
    what: str
    why: str
    saving: str = ""


@dataclass(frozen=True, slots=True)
class Chain:
    """Rows that are updated alike, in one stack. `group` is their parameter group: 0 for matrices, 1 for the rest."""

    rows: tuple[Row, ...]
    graph: fx.Graph
    group: int

    @property
    def row(self) -> Row:
        """The first row; the others differ from it in name alone."""
        return self.rows[0]

    @property
    def states(self) -> tuple[tuple[str, str], ...]:
        """(name, kind) of the tensors kept per parameter.

        Kind "like" is shaped like it, "grad" is its gradient itself, "count" is a 0-d number, "3x64" has that shape;
        "codes" are shaped like it and have "scales" beside them, of which the graph knows nothing.
        """
        states = [(node.name, node.meta["state"]) for node in placeholders(self.graph, "state")]
        beside = {name: ((scale_of(name), SCALES),) for name, kind in states if kind == CODES}
        return tuple(pair for name, kind in states for pair in ((name, kind), *beside.get(name, ())))


@dataclass(frozen=True, slots=True)
class Core:
    """A bucket's share that works on stacks. Inputs are (chain's index, node of its graph); outputs likewise."""

    graph: fx.Graph
    inputs: tuple[tuple[int, fx.Node], ...]
    outputs: tuple[tuple[int, fx.Node], ...]


@dataclass(frozen=True, slots=True)
class Family:
    """Chains that one generated function updates.

    `again` are rows like those of its one chain, which the function updates after them, in turns. If `pieces` isn't 0,
    it is given parameters one after another, at most so many entries of them at a time.
    """

    name: str
    chains: tuple[Chain, ...]
    core: Core | None
    again: tuple[tuple[Row, ...], ...] = ()
    pieces: int = 0


@dataclass(frozen=True, slots=True)
class Program:
    """The update of every row of a plan. `idle` are rows that nothing updates. `families` is what `batch` adds.

    `build` is how it was asked for, `device` what the backend says of the target.
    """

    model: str
    recipe: str
    plan: str
    chains: tuple[Chain, ...]
    idle: tuple[Row, ...]
    decisions: tuple[Decision, ...] = ()
    families: tuple[Family, ...] = ()
    build: Build = ON_CPU
    device: Device = ANY_CPU

    def with_chains(self, chains: tuple[Chain, ...], decisions: list[Decision]) -> Program:
        """This program with other chains, and a longer log."""
        return replace(self, chains=chains, decisions=self.decisions + tuple(decisions))


# Numbers of an op that rows of one stack may each have their own of: then it is a tuple with one a row.
ROWWISE = ("factor", "ratio", "radius")
Numbers = float | tuple[float, ...]


def rowwise_numbers(calls: Sequence[fx.Node], rows: Sequence[int], name: str) -> Numbers:
    """A rowwise argument of the same call in several chains, of so many rows each: one number if all agree."""
    every: list[float] = []
    for node, number in zip(calls, rows, strict=True):
        value: Any = node.kwargs[name]
        every += value if isinstance(value, tuple) else [value] * number
    return every[0] if len(set(every)) == 1 else tuple(every)


def placeholders(graph: fx.Graph, kind: str) -> list[fx.Node]:
    """A graph's placeholders of one kind, in order."""
    return [node for node in graph.nodes if node.op == "placeholder" and node.meta["kind"] == kind]


def returned(graph: fx.Graph) -> tuple[fx.Node, ...]:
    """The nodes that a graph returns."""
    (output,) = (node for node in graph.nodes if node.op == "output")
    result: tuple[fx.Node, ...] = output.args[0]
    return result


def each_form(op: object) -> Callable[..., Any] | None:
    """An op's multi-tensor form: `<op>_each` in the op's own module, or None."""
    name, module = getattr(op, "__name__", ""), sys.modules.get(getattr(op, "__module__", ""))
    return getattr(module, f"{name}_each", None)


def evaluate(graph: fx.Graph, inputs: Mapping[str, object], remember: bool = False) -> tuple[Any, ...]:
    """What a graph returns on inputs given by placeholder name. `remember`, for fake ones, keeps every value in
    `meta["val"]`.
    """
    values: dict[fx.Node, Any] = {}
    for node in graph.nodes:
        if node.op == "output":
            continue
        if node.op == "placeholder":
            values[node] = inputs[node.name]
        else:
            args = fx.node.map_arg(node.args, values.__getitem__)
            kwargs = fx.node.map_arg(node.kwargs, values.__getitem__)
            assert callable(node.target)
            if remember and node.target is polar:  # its tens of products say no more of a shape
                values[node] = torch.empty_like(args[0])
            else:
                values[node] = node.target(*args, **kwargs)
        if remember:
            node.meta["val"] = values[node]
    return tuple(values[node] for node in returned(graph))


def state_dtype(row: Row) -> torch.dtype:
    """What a row's state is kept in: float64 for float64, else float32."""
    return torch.float64 if row.dtype == "float64" else torch.float32


def annotate(chain: Chain) -> Chain:
    """Fill `meta["val"]` of every node with a FakeTensor: shapes and dtypes are checked without data."""
    number, row = len(chain.rows), chain.row
    with FakeTensorMode():
        inputs: dict[str, object] = {}
        for node in chain.graph.nodes:
            if node.op == "placeholder":
                inputs[node.name] = _fake(node, number, row)
        evaluate(chain.graph, inputs, remember=True)
    return chain


def _fake(node: fx.Node, number: int, row: Row) -> Tensor | float:
    if node.meta["kind"] == "number":
        return 0.5
    if node.meta.get("state") == "count":
        return torch.empty(number)
    kind = node.meta.get("state", "like")
    shape = row.shape if kind in ("like", "grad", CODES, PASSING) else tuple(map(int, kind.split("x")))
    return torch.empty((number, *shape), dtype=state_dtype(row))


@dataclass(frozen=True, slots=True)
class Split:
    """A chain's ops: elementwise on lists, then the core on stacks, then elementwise again."""

    before: tuple[fx.Node, ...]
    core: tuple[fx.Node, ...]
    after: tuple[fx.Node, ...]


def split(graph: fx.Graph) -> Split:
    """The core is every op without a multi-tensor form, and what lies between such ops.

    What the core reads is updated in place after it.
    """
    calls = [node for node in graph.nodes if node.op == "call_function"]
    stacked = {node for node in calls if each_form(node.target) is None}
    downstream = closure(calls, stacked, lambda node: node.all_input_nodes)
    upstream = closure(calls[::-1], stacked, lambda node: list(node.users))
    core = stacked | (downstream & upstream)
    read = {node for call in core for node in call.all_input_nodes if node not in core}
    late = {node for node in calls if node not in upstream and node.args[0] in read} - core
    after = closure(calls, downstream | late, lambda node: node.all_input_nodes) - core
    before = tuple(node for node in calls if node not in core and node not in after)
    return Split(before, tuple(node for node in calls if node in core), tuple(n for n in calls if n in after))


def exits(graph: fx.Graph) -> dict[fx.Node, tuple[int, ...]]:
    """Return what the core hands on, in the graph's order: each value's places among the arguments of the ops after it
    and the returned values. Chains of one function have the same places, whatever order they compute the values in.
    """
    parts = split(graph)
    readers: list[fx.Node] = []
    for node in parts.after:
        fx.node.map_arg((node.args, node.kwargs), readers.append)
    readers += returned(graph)
    found = {node: tuple(place for place, source in enumerate(readers) if source is node) for node in parts.core}
    return {node: places for node, places in found.items() if places}


def closure(nodes: list[fx.Node], seeds: set[fx.Node], neighbours: Callable[[fx.Node], list[fx.Node]]) -> set[fx.Node]:
    """Nodes that reach a seed through `neighbours`, for nodes in an order where neighbours come first."""
    reached = set(seeds)
    for node in nodes:
        if any(other in reached for other in neighbours(node)):
            reached.add(node)
    return reached
