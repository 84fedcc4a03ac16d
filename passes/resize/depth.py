"""A graph with more or fewer of the blocks that it repeats: windows of calls put in before the last, or left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import pairwise

from torch import fx

from normc.errors import NormcError
from normc.model.trace.graph import ModelGraph, Parameter
from normc.passes.resize.multipliers import Multiplier, rewritten
from normc.passes.resize.repeat import Stack
from normc.passes.resize.stretch import copied

_PLAN = "plan the model of that depth itself"
_KINDS = ("param", "buffer", "module")
Label = Callable[[str], str]


def deepened(model: ModelGraph, stack: Stack, length: int, numbers: Iterable[Multiplier] = ()) -> ModelGraph:
    """The graph with `length` blocks in the stack, and with those numbers for that length.

    NormcError where so many blocks can't be had from what was traced.
    """
    name = stack.name or "the model"
    if stack.problem:
        raise NormcError(f"the blocks of {name} can't be repeated: {stack.problem}", _PLAN)
    more = length - stack.length
    least = stack.length - (len(stack.windows) - 1) * stack.period
    if length < least or more % stack.period:
        known = ", ".join(str(least + i * stack.period) for i in range(3))
        why = f"they repeat in groups of {stack.period}" if stack.period > 1 else f"{least} is the least"
        raise NormcError(f"{name} can't have {length} blocks: {why}", f"give one of {known}, ...")
    return _Splice(model, stack, numbers, length).done(more // stack.period) if more else model


class _Splice:
    """One change of depth. The last window stays, with all that is behind it, and gets a higher or lower number."""

    def __init__(self, model: ModelGraph, stack: Stack, numbers: Iterable[Multiplier], length: int) -> None:
        self.model, self.stack = model, stack
        self.made, nodes = copied(model)
        rewritten(numbers, nodes, length)
        self.graph = self.made.graph
        self.windows = [[nodes[node] for node in window] for window in stack.windows]
        self.entering = {nodes[inside]: nodes[before] for inside, before in (stack.entering or {}).items()}
        self.last = range(stack.numbers[stack.repeating[-stack.period]], stack.numbers[stack.repeating[-1]] + 1)
        self.old = list(self.graph.nodes)
        self.nodes = dict(self.made.nodes)

    def done(self, more: int) -> ModelGraph:
        shift = more * self.stack.step
        parameters = self.model.parameters
        if more < 0:
            gone = range(self.last[0] + shift, self.last[0])
            self.shorten(-more, gone)
            parameters = tuple(p for p in parameters if self.stack.number(p.name) not in gone)
        copies = [self.lengthen(self.raised(turn * self.stack.step)) for turn in range(more)]

        def behind(name: str) -> str:
            number = self.stack.number(name)
            return name if number is None or number < self.last[0] else self.stack.renamed(name, number + shift)

        for node in self.old:
            _relabel(node, behind)
        nodes = {behind(p.name): self.nodes[p.name] for p in parameters}
        nodes |= {name: node for copy in copies for name, node in copy.items()}
        labels = [self.raised(turn * self.stack.step) for turn in range(max(more, 0))]
        return replace(self.made, parameters=self.ordered(parameters, labels, behind), nodes=nodes)

    def raised(self, by: int) -> Label:
        """Names of the last window's own tensors and modules with a higher number."""

        def label(name: str) -> str:
            number = self.stack.number(name)
            return self.stack.renamed(name, number + by) if number is not None and number in self.last else name

        return label

    def shorten(self, fewer: int, gone: range) -> None:
        """Leave out the `fewer` windows before the last: what it took from them it takes from those before."""
        windows = self.windows
        where = {node: (number, i) for number, window in enumerate(windows[:-1]) for i, node in enumerate(window)}

        def earlier(node: fx.Node) -> fx.Node:
            if node not in where:
                return node
            number, i = where[node]
            if number >= fewer:
                return windows[number - fewer][i]
            if number == fewer - 1 and windows[0][i] in self.entering:
                return self.entering[windows[0][i]]
            raise NormcError("so few blocks leave none for what the last one takes from them", _PLAN)

        for node in windows[-1]:
            _rewire(node, earlier)
        leaving = [node for window in windows[-1 - fewer : -1] for node in window]
        leaving = [
            *(node for node in self.old if node.op == "placeholder" and self.stack.number(_label(node)) in gone),
            *leaving,
        ]
        for node in reversed(leaving):
            self.graph.erase_node(node)
        self.old = [node for node in self.old if node not in set(leaving)]

    def lengthen(self, label: Label) -> dict[str, fx.Node]:
        """Put a copy of the last window before it, and let it read what the copy makes. The copy's parameters."""
        end = self.windows[-1]
        copies: dict[fx.Node, fx.Node] = {}
        for node in self.old:
            if node.op == "placeholder" and self.stack.number(_label(node)) in self.last:
                with self.graph.inserting_before(node):
                    copies[node] = self.graph.node_copy(node)
                copies[node].target = copies[node].name
        with self.graph.inserting_before(end[0]):
            for node in end:
                copies[node] = self.graph.node_copy(node, lambda source: copies.get(source, source))
        for node, copy in copies.items():
            copy.meta = dict(node.meta)
            _relabel(copy, label)
        made = [copies[node] for node in end]
        later = {old: new for a, b in pairwise([*self.windows[:-1], made]) for old, new in zip(a, b, strict=True)}
        for node in end:
            _rewire(node, lambda source: later.get(source, source))
        self.windows.insert(-1, made)
        return {
            copy.meta["param"]: copy for copy in copies.values() if copy.op == "placeholder" and "param" in copy.meta
        }

    def ordered(self, parameters: Iterable[Parameter], labels: Iterable[Label], behind: Label) -> tuple[Parameter, ...]:
        """In the model's order: each run of the last window's parameters behind those of its copies."""
        found: list[Parameter] = []
        group: list[Parameter] = []
        for parameter in (*parameters, None):
            if parameter is not None and self.stack.number(parameter.name) in self.last:
                group.append(parameter)
                continue
            found += [_named(member, label) for label in (*labels, behind) for member in group]
            group = []
            found += [_named(parameter, behind)] if parameter is not None else []
        for parameter in found:
            if len({parameter.name, *parameter.aliases}) <= len(parameter.aliases):
                raise NormcError(f"{parameter.name} is tied across blocks", _PLAN)
        return tuple(found)


def _label(node: fx.Node) -> str:
    return str(next((node.meta[kind] for kind in ("param", "buffer") if kind in node.meta), ""))


def _relabel(node: fx.Node, label: Label) -> None:
    for kind in _KINDS:
        if kind in node.meta:
            node.meta[kind] = label(node.meta[kind])


def _rewire(node: fx.Node, change: Callable[[fx.Node], fx.Node]) -> None:
    node.args, node.kwargs = fx.node.map_arg((node.args, node.kwargs), change)


def _named(parameter: Parameter, label: Label) -> Parameter:
    return replace(parameter, name=label(parameter.name), aliases=tuple(map(label, parameter.aliases)))
