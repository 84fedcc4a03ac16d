"""A chain cut where its ops stop being entry by entry: what a shard can do, what needs the whole, and a shard again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from normc.update.ops import matrices
from normc.update.ops.arithmetic import constrained, descend, scale
from normc.update.program.program import Chain, closure, each_form, placeholders, returned
from normc.update.runtime.codes import PASSING
from normc.update.runtime.crossing import Crossing

_Seen = list[tuple[Any, list[Tensor], Any]]  # ATen ops, what each ran on, and its result

# Ops of one tensor that torch has no tag for, and that see each entry by itself all the same.
_BY_ENTRY = {
    torch.ops.aten.clone.default, torch.ops.aten._to_copy.default, torch.ops.aten.detach.default,
    torch.ops.aten.zeros_like.default, torch.ops.aten.empty_like.default, torch.ops.aten.copy.default,
    torch.ops.prim.device.default,
}  # fmt: skip
# Ops beside views whose entries are those that they are given.
_MOVING = {
    torch.ops.aten.clone.default, torch.ops.aten.cat.default, torch.ops.aten.stack.default,
    torch.ops.aten._unsafe_view.default, torch.ops.prim.device.default,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cut:
    """A row's chain in up to three graphs.

    there   what the owner gets; those of a state are states that the owner's part keeps or reads
    back    what it hands on; of a name that is a state's too, the state's new value
    across  what the last part gets of the first, on the same rank
    states  (name, kind) of all that is kept between steps
    """

    before: fx.Graph | None
    whole: fx.Graph | None
    after: fx.Graph | None
    there: tuple[Crossing, ...] = ()
    back: tuple[Crossing, ...] = ()
    across: tuple[Crossing, ...] = ()
    states: tuple[tuple[str, str], ...] = ()


class _Ops(TorchDispatchMode):
    """Remembers the ATen ops that run, and what they ran on."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.seen: _Seen = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        result = func(*args, **(kwargs or {}))
        self.seen.append((func, tensors, result))
        return result


def by_entry(node: fx.Node) -> bool:
    """Whether a call sees each entry of its tensors by itself, so that it may see a shard of them.

    A number a row, as a count of steps, may be viewed to go along with all entries.
    """
    value = node.meta["val"]
    if not isinstance(value, FakeTensor) or node.target is matrices.polar:
        return False
    rows = value.shape[0] if value.dim() else 1
    return all(
        torch.Tag.pointwise in func.tags
        or func in _BY_ENTRY
        or all(tensor.numel() <= rows for tensor in tensors)
        or (func == torch.ops.aten.expand.default and result.shape == tensors[0].shape)
        for func, tensors, result in _ran(node)
    )


def _ran(node: fx.Node) -> _Seen:
    """The ATen ops of a call, run on its fake tensors."""
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda given: given.meta["val"])
    assert callable(node.target)
    ops = _Ops()
    with node.meta["val"].fake_mode, ops:
        node.target(*args, **kwargs)
    return ops.seen


def rounded(node: fx.Node, polar: torch.dtype | None) -> torch.dtype | None:
    """The dtype that all entries of a value are numbers of, narrower than its own; None where none is known. `polar` is
    what Newton-Schulz rounds to; ops that only move entries leave them what they are.
    """
    if polar is None or node.target is matrices.polar:
        return polar
    if node.op != "call_function" or not isinstance(node.meta["val"], FakeTensor):
        return None
    found = {rounded(source, polar) for source in node.all_input_nodes}
    if len(found) != 1 or found == {None}:
        return None
    return found.pop() if all(func.is_view or func in _MOVING for func, _, _ in _ran(node)) else None


def cut(chain: Chain, polar: torch.dtype | None = None, step_wire: torch.dtype | None = None) -> Cut:
    """Cut a chain of one row. Its graph's values are annotated.

    `polar` is what Newton-Schulz rounds to, None for nothing narrower: its result then crosses in that dtype, as it is.
    `step_wire` is what directions and steps cross in that are rounded for the way; None for their own dtype.
    """
    graph = chain.graph
    calls = [node for node in graph.nodes if node.op == "call_function"]
    states = chain.states
    counts = _counts(graph, dict(states))
    needs_whole = set(needing_whole(chain))
    if not needs_whole:
        return Cut(None, None, graph, states=states)
    down = closure(calls, needs_whole, lambda node: node.all_input_nodes)
    up = closure(calls[::-1], needs_whole, lambda node: list(node.users))
    whole = needs_whole | (down & up)
    for node in calls:  # what has no form for lists would be a core of the last part's own
        sources = set(node.all_input_nodes)
        narrow = any(rounded(source, polar) for source in sources)  # which is worth it: it crosses as it is
        if each_form(node.target) is None and sources <= whole | counts and not narrow and not _fuses(node):
            whole.add(node)
    first = {node for node in calls if node in up and node not in whole and node not in counts}
    last = {node for node in calls if node not in whole and node not in first and node not in counts}
    return _Parts(chain, counts, (first, whole, last), polar, step_wire).cut()


def _fuses(node: fx.Node) -> bool:
    """Whether `fuse` makes the node a part of the step behind it, as in one process: elsewhere it would round twice."""
    return node.target is scale and all(user.target in (descend, constrained) for user in node.users)


def needing_whole(chain: Chain) -> list[fx.Node]:
    """The calls of a chain that can't do with a shard. Its graph's values are annotated."""
    counts = _counts(chain.graph, dict(chain.states))
    calls = (node for node in chain.graph.nodes if node.op == "call_function")
    return [node for node in calls if node not in counts and not by_entry(node)]


def _counts(graph: fx.Graph, kinds: Mapping[str, str]) -> set[fx.Node]:
    """What depends on counts and numbers alone: every part computes it for itself."""
    found = {
        node
        for node in graph.nodes
        if node.op == "placeholder" and (node.meta["kind"] == "number" or kinds.get(node.name) == "count")
    }
    for node in graph.nodes:
        if node.op == "call_function" and node.all_input_nodes and set(node.all_input_nodes) <= found:
            found.add(node)
    return found


class _Parts:
    """Writes the three graphs of one chain."""

    def __init__(
        self,
        chain: Chain,
        counts: set[fx.Node],
        parts: tuple[set[fx.Node], set[fx.Node], set[fx.Node]],
        polar: torch.dtype | None,
        step_wire: torch.dtype | None,
    ) -> None:
        self.chain, self.graph, self.counts, self.parts = chain, chain.graph, counts, parts
        self.polar, self.step_wire = polar, step_wire
        self.as_kept: set[str] = set()  # slots that hold states, in the dtype that these are kept in
        self.kinds = dict(chain.states)
        self.weight = returned(self.graph)[0]
        names = [node.name for node in placeholders(self.graph, "state")]
        self.kept = dict(zip(names, returned(self.graph)[1:], strict=True))  # state's name -> its new value

    def cut(self) -> Cut:
        first, whole, last = self.parts
        into_whole = self._read_by(whole, but=whole)
        into_last = self._read_by(last, but=last)
        home = {node: index for index, part in enumerate(self.parts) for node in part}
        there = [self._crossing(node, f"there_{index}") for index, node in enumerate(into_whole)]
        back_nodes = [node for node in into_last if home.get(node) == 1]
        if self.weight in whole and self.weight not in back_nodes:
            back_nodes.append(self.weight)
        owned = {name: node for name, node in self.kept.items() if node in whole}
        for node in owned.values():
            if node not in back_nodes:
                back_nodes.append(node)
        names = {node: name for name, node in owned.items()}
        sources: dict[fx.Node, str] = {**names, **({self.weight: "weight"} if self.weight in whole else {})}
        back = [
            self._named(node, names.get(node, f"back_{index}"), sources.get(node))
            for index, node in enumerate(back_nodes)
        ]
        across_nodes = [node for node in into_last if home.get(node) == 0]
        across = [self._crossing(node, f"across_{index}") for index, node in enumerate(across_nodes)]

        crossing = (*there, *back, *across)
        self.as_kept = {*self.kinds, *(one.name for one in crossing if one.source in self.kinds)}

        first_new = {name: node for name, node in self.kept.items() if node in first}
        handed = [*zip(there, into_whole, strict=True), *zip(across, across_nodes, strict=True)]
        fresh = {one.name: node for one, node in handed if one.source is None}
        before = None
        if first:
            before = self._write(first, {}, first_new | fresh, None)
        inward = {node: (one.name, one.kind) for one, node in zip(there, into_whole, strict=True)}
        outward = {one.name: node for one, node in zip(back, back_nodes, strict=True)}
        core = self._write(whole, inward, outward, None)
        given = {node: (one.name, one.kind) for one, node in zip(back, back_nodes, strict=True)}
        given |= {node: (one.name if one.source in (None, "weight", "grad") else str(one.source), one.kind)
                  for one, node in zip(across, across_nodes, strict=True)}  # fmt: skip
        last_new = {name: node for name, node in self.kept.items() if node in last}
        after = self._write(last, given, last_new, self.weight)
        return Cut(before, core, after, tuple(there), tuple(back), tuple(across), self.chain.states)

    def _read_by(self, part: set[fx.Node], but: set[fx.Node]) -> list[fx.Node]:
        """Values that a part reads and doesn't make, in the graph's order: no numbers, no counts."""
        read = {node for call in part for node in call.all_input_nodes} - but - self.counts
        return [node for node in self.graph.nodes if node in read]

    def _kind(self, node: fx.Node) -> str:
        shape = tuple(node.meta["val"].shape[1:])
        return "like" if shape == tuple(self.chain.row.shape) else "x".join(map(str, shape))

    def _crossing(self, node: fx.Node, name: str) -> Crossing:
        source = None
        if node.op == "placeholder":
            source = node.name if node.meta["kind"] == "state" else node.meta["kind"]
        else:
            source = next((state for state, value in self.kept.items() if value is node), None)
        return self._named(node, name, source)

    def _named(self, node: fx.Node, name: str, source: str | None) -> Crossing:
        """It crosses as narrow as it is exact, or as steps are asked to."""
        wire = rounded(node, self.polar) or (self.step_wire if source is None else None)
        return Crossing(name, self._kind(node), source, wire)

    def _write(
        self,
        part: set[fx.Node],
        given: Mapping[fx.Node, tuple[str, str]],
        results: Mapping[str, fx.Node],
        weight: fx.Node | None,
    ) -> fx.Graph:
        """A chain's graph of one part. `given` are values that come as states, `results` are written into states."""
        graph = fx.Graph()
        new: dict[fx.Node, fx.Node] = {}
        slots: dict[str, fx.Node] = {}
        for kind, name in (("weight", "w"), ("grad", "g")):
            node = graph.placeholder(name)
            node.meta["kind"] = kind
            (old,) = placeholders(self.graph, kind)
            new[old] = node

        def slot(name: str, kind: str) -> fx.Node:
            if name not in slots:
                slots[name] = graph.placeholder(name)
                passing = kind == "like" and name not in self.as_kept
                slots[name].meta |= {"kind": "state", "state": PASSING if passing else kind}
            return slots[name]

        needed = part | {node for node in self.counts if self._wanted(node, part)}
        for node, (name, kind) in given.items():
            new[node] = slot(name, kind)
        for node in placeholders(self.graph, "state"):
            if node not in new and any(user in needed for user in node.users):
                new[node] = slot(node.name, self.kinds[node.name])
        for name, node in results.items():
            slot(name, self.kinds.get(name) or self._kind(node))
        for node in placeholders(self.graph, "number"):
            if any(user in needed for user in node.users):
                new[node] = graph.placeholder(node.name)
                new[node].meta["kind"] = "number"
        for node in self.graph.nodes:
            if node.op == "call_function" and node in needed:
                new[node] = graph.node_copy(node, new.__getitem__)
        updated = {name: new[node] for name, node in results.items()}
        updated |= {name: new[node] for name, node in self.kept.items() if name in slots and node in new and
                    self.kinds[name] == "count"}  # fmt: skip
        out = new[weight] if weight is not None and weight in new else next(iter(graph.nodes))
        graph.output((out, *(updated.get(name, node) for name, node in slots.items())))
        graph.lint()
        return graph

    def _wanted(self, node: fx.Node, part: set[fx.Node]) -> bool:
        return any(user in part or (user in self.counts and self._wanted(user, part)) for user in node.users)
