"""blocks: the parts of a parameter that act on their own: q, k and v in one matrix, gate and up, groups, interleaved
or not.

Two entries of an output axis belong together if they go to the same places. What is cut apart and put together again on
the way (rotary halves) is one part.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from torch import fx

from normc.facts import Facts, Log, analysis
from normc.ops.call import MATRIX, Consumption, Contact
from normc.ops.parts import Part
from normc.ops.value import Axis, Spans, merge
from normc.passes.bind import Binding
from normc.passes.heads import by_heads
from normc.passes.layout import Layout, Layouts
from normc.passes.request import Request
from normc.plans.row import Block
from normc.trace.graph import ModelGraph, Parameter, op_name

_MOST = 1 << 15
Place = tuple[fx.Node, int]


@dataclass(frozen=True, slots=True)
class Blocks:
    """The blocks of every parameter that has any."""

    of: Mapping[str, tuple[Block, ...]]


@analysis("blocks")
def blocks(model: ModelGraph, facts: Facts, log: Log) -> Blocks:
    """Blocks of every matrix, then those of the biases added to their outputs."""
    binding, layouts = facts[Binding], facts[Layouts]
    consumed: dict[Axis, list[Consumption]] = {}
    for consumption in binding.consumptions:
        consumed.setdefault(consumption.axis, []).append(consumption)
    found: dict[str, tuple[Block, ...]] = {}
    for parameter in model.parameters:
        layout = layouts.of[parameter.name]
        if layout.principal is not None and layout.principal.kind in MATRIX and not layout.problem:
            own = _grouped(parameter, layout, log) or _by_consumers(parameter, layout, binding, consumed, log)
            if facts[Request].heads:
                own = by_heads(parameter, layout, own, binding.separations, log)
            if own:
                found[parameter.name] = own
    for parameter in model.parameters:
        _inherit(parameter, layouts.of[parameter.name], found, log)
    return Blocks(found)


def _grouped(parameter: Parameter, layout: Layout, log: Log) -> tuple[Block, ...]:
    """Blocks that the op itself keeps apart inside an axis: a convolution's groups, heads of a batched product."""
    assert layout.principal is not None
    for part in layout.principal.parts:
        if part.use == "block" and 1 < part.size < parameter.shape[part.axis]:
            label = _stack_labels(layout.principal)
            spans = [_stretch(part, i, parameter.shape[part.axis]) for i in range(part.size)]
            claim = f"{part.size} of {parameter.shape[part.axis] // part.size} on axis {part.axis}"
            node = layout.principal.node
            log.because(parameter.name, "blocks", claim, f"{op_name(node)} keeps them apart", node)
            return tuple(Block(label(i), part.axis, span) for i, span in enumerate(spans))
    return ()


def _stack_labels(contact: Contact) -> Callable[[int], str]:
    """Gates of a recurrent layer by their letters, other stacked parts by number."""
    gates = {"aten.lstm": "ifgo", "aten.lstm_cell": "ifgo", "aten.gru": "rzn", "aten.gru_cell": "rzn"}.get(
        op_name(contact.node)
    )
    if gates is not None:
        return lambda i: gates[i]
    return lambda i: f"{'group' if contact.kind == 'convolve' else 'block'} {i}"


def _stretch(part: Part, index: int, size: int) -> Spans:
    """The entries of block `index`: one stretch, or one in every period if an inner factor numbers the blocks."""
    period = part.stride * part.size
    return merge(
        (start + index * part.stride, start + (index + 1) * part.stride) for start in range(part.start, size, period)
    )


def _by_consumers(
    parameter: Parameter, layout: Layout, binding: Binding, consumed: Mapping[Axis, list[Consumption]], log: Log
) -> tuple[Block, ...]:
    for index in layout.where("out"):
        places: list[tuple[Spans, Place]] = [
            (use.spans, (use.node, use.slot)) for use in consumed.get(Axis(parameter.name, index), ())
        ]
        for contact in binding.contacts[parameter.name]:
            spans = dict(contact.spans).get(index, ((0, parameter.shape[index]),))
            if contact.kind in MATRIX:
                places.append((spans, (contact.node, -1)))
        parts = _partition(places, parameter.shape[index])
        if parts is None:
            log.notes.append(
                f"{parameter.name} is taken for one block: its outputs alternate more than {_MOST:,} times"
            )
            return ()
        if len(parts) > 1:
            labels = _labels([set(where) for where, _ in parts])
            found = tuple(Block(label, index, spans) for label, (_, spans) in zip(labels, parts, strict=True))
            node = next(iter(parts[0][0]), (layout.principal.node if layout.principal else None, 0))[0]
            sizes = ", ".join(f"{block.label} {block.size}" for block in found)
            log.because(
                parameter.name, "blocks", f"{sizes} on axis {index}", "its output's parts go to different places", node
            )
            return found
    return ()


def _partition(places: list[tuple[Spans, Place]], size: int) -> list[tuple[tuple[Place, ...], Spans]] | None:
    """Stretches of the axis by the places that they reach; neighbours handled alike by one line stay together.

    What reaches nothing (a table's rows beyond the example's length) stays with its neighbour. None if there are too
    many stretches.
    """
    edges = sorted({0, size} | {edge for spans, _ in places for span in spans for edge in span if 0 <= edge <= size})
    if len(edges) > _MOST:
        return None
    reached: dict[int, list[Place]] = {start: [] for start in edges[:-1]}
    for spans, place in places:
        for start, stop in spans:
            for edge in edges[bisect_left(edges, start) : bisect_left(edges, min(stop, size))]:
                reached[edge].append(place)
    groups: dict[tuple[Place, ...], list[tuple[int, int]]] = {}
    previous: tuple[Place, ...] | None = None
    first = tuple(dict.fromkeys(next((places for places in reached.values() if places), [])))
    for start, stop in pairwise(edges):
        where = tuple(dict.fromkeys(reached[start])) or previous or first
        if previous is not None and where != previous and where not in groups and _same_line(where, previous):
            where = previous
        groups.setdefault(where, []).append((start, stop))
        previous = where
    return [(where, merge(spans)) for where, spans in groups.items()]


def _same_line(a: tuple[Place, ...], b: tuple[Place, ...]) -> bool:
    """A loop over heads sends each to another node, but of the same line, op and operand, and side by side."""
    if {_line(place) for place in a} != {_line(place) for place in b} or {_name(p) for p in a} != {_name(p) for p in b}:
        return False
    ones, others = set(a) - set(b), set(b) - set(a)
    return not any(_leads(first, second) or _leads(second, first) for first, _ in ones for second, _ in others)


def _leads(first: fx.Node, second: fx.Node, nodes: int = 256) -> bool:
    """Whether the second node is computed from the first, within a short way."""
    waiting, seen = list(first.users), {first}
    while waiting and len(seen) < nodes:
        at = waiting.pop(0)
        if at is second:
            return True
        if at not in seen:
            seen.add(at)
            waiting += list(at.users)
    return False


def _line(place: Place) -> tuple[str, str, str, int]:
    node, slot = place
    if not node.meta.get("source"):
        return (node.name, "", "", slot)
    return (op_name(node), node.meta["source"], node.meta.get("module", ""), slot)


def _labels(reached: list[set[Place]]) -> list[str]:
    """q, k and v where attention says so, gate and up where a product of the two does, else numbers."""
    labels = []
    for number, places in enumerate(reached):
        names = {_name(place) for place in places} - {""}
        labels.append(names.pop() if len(names) == 1 else f"part {number}")
    repeated = {label for label in labels if labels.count(label) > 1}
    return [f"{label} {i}" if label in repeated else label for i, label in enumerate(labels)]


def _name(place: Place) -> str:
    node, slot = place
    op = op_name(node)
    if "scaled_dot_product" in op:
        return ("q", "k", "v")[slot] if slot < 3 else ""
    if op in ("aten.matmul", "aten.bmm", "aten.baddbmm", "aten.einsum"):
        if slot == 1 and _comes_from_softmax(node):
            return "v"
        return ("q", "k")[slot] if slot in (0, 1) and _goes_to_softmax(node) else ""
    if op in ("aten.mul", "aten.mul_") and len(node.all_input_nodes) == 2:
        own = node.all_input_nodes[slot] if slot < 2 else node
        return "gate" if _is_activation(own) else "up" if _is_activation(node.all_input_nodes[1 - slot]) else ""
    return "gate" if op == "aten.glu" and slot == 1 else "up" if op == "aten.glu" else ""


def _is_activation(node: fx.Node) -> bool:
    return op_name(node).rstrip("_") in ("aten.silu", "aten.gelu", "aten.sigmoid", "aten.relu", "aten.tanh")


def _goes_to_softmax(node: fx.Node, hops: int = 12) -> bool:
    waiting = list(node.users)
    while waiting and hops:
        at = waiting.pop(0)
        hops -= 1
        if "softmax" in op_name(at):
            return True
        if op_name(at) not in ("aten.matmul", "aten.bmm", "aten.linear"):
            waiting += list(at.users)
    return False


def _comes_from_softmax(node: fx.Node, hops: int = 8) -> bool:
    waiting = node.all_input_nodes[:1]
    while waiting and hops:
        at = waiting.pop(0)
        hops -= 1
        if "softmax" in op_name(at):
            return True
        if op_name(at) not in ("aten.matmul", "aten.bmm", "aten.linear"):
            waiting += at.all_input_nodes
    return False


def _inherit(parameter: Parameter, layout: Layout, found: dict[str, tuple[Block, ...]], log: Log) -> None:
    """A bias has the blocks of the output that it is added to."""
    contact = layout.principal
    if contact is None or contact.kind != "shift" or len(parameter.shape) != 1:
        return
    for axis in contact.partners:
        own = tuple(block for block in found.get(axis.parameter, ()) if block.axis == axis.number)
        if own and sum(block.size for block in own) == parameter.shape[0] and not own[0].label.startswith("group"):
            found[parameter.name] = tuple(Block(block.label, 0, block.spans) for block in own)
            log.because(
                parameter.name,
                "blocks",
                f"{len(own)} along axis 0",
                f"it is added to the output of {axis.parameter}",
                contact.node,
            )
            return
