"""A graph with more or fewer of the blocks that it repeats: windows of calls put in before the last one, or left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import fx

from normc.errors import NormcError
from normc.resize.repeat import Stack
from normc.resize.stretch import copied
from normc.trace.graph import ModelGraph, Parameter


def deepened(model: ModelGraph, stack: Stack, length: int) -> ModelGraph:
    """The graph with `length` blocks in the stack. NormcError where so many can't be had from what was traced."""
    name = stack.name or "the model"
    if stack.problem:
        raise NormcError(f"the blocks of {name} can't be repeated: {stack.problem}", _PLAN)
    windows, more = len(stack.windows), length - stack.length
    least = stack.length - (windows - 1) * stack.period
    if length < least or more % stack.period:
        known = ", ".join(str(least + i * stack.period) for i in range(3))
        why = f"they repeat in groups of {stack.period}" if stack.period > 1 else f"{least} of them are needed"
        raise NormcError(f"{name} can't have {length} blocks: {why}", f"give one of {known}, ...")
    if not more:
        return model
    return _rebuilt(model, stack, more // stack.period)


_PLAN = "plan the model of that depth itself"


def _rebuilt(model: ModelGraph, stack: Stack, more: int) -> ModelGraph:
    made, nodes = copied(model)
    windows = [[nodes[node] for node in window] for window in stack.windows]
    entering = {nodes[inside]: nodes[before] for inside, before in (stack.entering or {}).items()}
    last = stack.numbers[stack.repeating[-1] + 1 - stack.period]
    ending = stack.numbers[stack.repeating[-1]]
    shift = more * stack.step

    def label(name: str) -> str:
        number = stack.number(name)
        return name if number is None or number < last else stack.renamed(name, number + shift)

    placed: dict[str, fx.Node] = dict(made.nodes)
    if more < 0:
        gone = range(last + shift, last)
        _shortened(made.graph, windows, entering, -more)
        parameters = [p for p in model.parameters if not (stack.number(p.name) in gone)]
        for parameter in model.parameters:
            if stack.number(parameter.name) in gone:
                placed.pop(parameter.name)
        for node in list(made.graph.nodes):
            if node.op == "placeholder" and not node.users and stack.number(_own(node)) in gone:
                made.graph.erase_node(node)
    else:
        parameters = list(model.parameters)
        for number in range(more):
            _lengthened(made.graph, windows, stack, last, ending, number, placed)
    for node in made.graph.nodes:
        if not node.meta.pop("new block", False):
            _relabel(node, label)
    return replace(made, parameters=_ordered(parameters, stack, last, ending, more, label),
                   nodes=_named(placed, parameters, stack, last, ending, more, label))  # fmt: skip


def _own(node: fx.Node) -> str:
    return str(next((node.meta[kind] for kind in ("param", "buffer") if kind in node.meta), ""))


def _relabel(node: fx.Node, label: Any) -> None:
    for kind in ("param", "buffer", "module"):
        if kind in node.meta:
            node.meta[kind] = label(node.meta[kind])


def _shortened(
    graph: fx.Graph, windows: list[list[fx.Node]], entering: Mapping[fx.Node, fx.Node], fewer: int
) -> None:
    """Leave out the `fewer` windows before the last: what it took from them it takes from those before."""
    where = {node: (number, i) for number, window in enumerate(windows) for i, node in enumerate(window)}
    kept = len(windows) - 1 - fewer

    def earlier(node: fx.Node) -> fx.Node:
        number, i = where.get(node, (len(windows), 0))
        if number >= len(windows) - 1:
            return node
        if number - fewer >= 0:
            return windows[number - fewer][i]
        first = windows[0][i]
        if number - fewer == -1 and first in entering:
            return entering[first]
        raise NormcError("so few blocks leave none for what the last one takes from them", _PLAN)

    for node in windows[-1]:
        node.args, node.kwargs = fx.node.map_arg((node.args, node.kwargs), earlier)
    for window in reversed(windows[kept:-1]):
        for node in reversed(window):
            graph.erase_node(node)


def _lengthened(
    graph: fx.Graph, windows: list[list[fx.Node]], stack: Stack, last: int, ending: int, number: int,
    placed: dict[str, fx.Node],
) -> None:  # fmt: skip
    """Put a copy of the last window before it, and let the last one read what the copy makes."""
    end, before = windows[-1], windows[-2]
    copies: dict[fx.Node, fx.Node] = {}

    def label(name: str) -> str:
        own = stack.number(name)
        return stack.renamed(name, own + number * stack.step) if own is not None and own >= last else name

    def of(node: fx.Node) -> fx.Node:
        own = stack.number(_own(node)) if node.op == "placeholder" else None
        if node not in copies and own is not None and last <= own <= ending:
            _place(graph, node, copies, label)
        return copies.get(node, node)

    for name in [name for name in placed if last <= (stack.number(name) if stack.number(name) is not None else -1) <= ending]:
        if "new block" not in placed[name].meta:
            of(placed[name])
    with graph.inserting_before(end[0]):
        for node in end:
            copies[node] = graph.node_copy(node, of)
            copies[node].meta = {**node.meta, "new block": True}
            _relabel(copies[node], label)
    for node, copy in list(copies.items()):
        if "param" in node.meta and node.op == "placeholder":
            placed[f"\0{number}\0{node.meta['param']}"] = copy
    later = {old: copies[new] for old, new in zip(before, end, strict=True)}
    for older, newer in zip(windows[:-2], windows[1:-1], strict=True):
        later.update(zip(older, newer, strict=True))
    for node in end:
        node.args, node.kwargs = fx.node.map_arg((node.args, node.kwargs), lambda source: later.get(source, source))
    windows.insert(-1, [copies[node] for node in end])


def _place(graph: fx.Graph, node: fx.Node, copies: dict[fx.Node, fx.Node], label: Any) -> None:
    with graph.inserting_before(node):
        made = graph.create_node("placeholder", str(node.target), name=str(node.target))
    made.target = made.name
    made.meta = {**node.meta, "new block": True}
    _relabel(made, label)
    copies[node] = made


def _ordered(
    parameters: list[Parameter], stack: Stack, last: int, ending: int, more: int, label: Any
) -> tuple[Parameter, ...]:
    """The parameters in the model's order, each run of a repeated block's preceded by those of the new blocks."""
    found: list[Parameter] = []
    group: list[Parameter] = []

    def flush() -> None:
        for number in range(max(more, 0)):
            found.extend(_renumbered(parameter, stack, number * stack.step) for parameter in group)
        found.extend(_labelled(parameter, label) for parameter in group)
        group.clear()

    for parameter in parameters:
        number = stack.number(parameter.name)
        if number is not None and last <= number <= ending:
            group.append(parameter)
            continue
        flush()
        found.append(_labelled(parameter, label))
    flush()
    return tuple(found)


def _labelled(parameter: Parameter, label: Any) -> Parameter:
    return replace(parameter, name=label(parameter.name), aliases=tuple(map(label, parameter.aliases)))


def _renumbered(parameter: Parameter, stack: Stack, by: int) -> Parameter:
    def moved(name: str) -> str:
        number = stack.number(name)
        if number is None:
            raise NormcError(f"{parameter.name} is tied to {name}, which no new block has a name for", _PLAN)
        return stack.renamed(name, number + by)

    return replace(parameter, name=moved(parameter.name), aliases=tuple(map(moved, parameter.aliases)))


def _named(
    placed: Mapping[str, fx.Node], parameters: list[Parameter], stack: Stack, last: int, ending: int, more: int,
    label: Any,
) -> dict[str, fx.Node]:  # fmt: skip
    found = {label(parameter.name): placed[parameter.name] for parameter in parameters}
    return found | {
        node.meta["param"]: node for name, node in placed.items() if name.startswith("\0")
    }
