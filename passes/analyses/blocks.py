"""blocks: the parts of a parameter that act on their own: q, k and v in one matrix, gate and up, groups, interleaved
or not.

Two entries of an output axis belong together if they go to the same places, or to places that treat them alike. What is
cut apart and put together again on the way (rotary halves) is one part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from normc.model.facts import Facts, Log, analysis
from normc.model.ops.call import MATRIX, Consumption, Contact
from normc.model.ops.parts import Part
from normc.model.ops.value import Axis, Spans, merge
from normc.model.trace.graph import ModelGraph, Parameter
from normc.nodes import op_name
from normc.passes.analyses.alike import Place
from normc.passes.analyses.bind import Binding
from normc.passes.analyses.flow import Flow
from normc.passes.analyses.heads import by_heads
from normc.passes.analyses.layout import Layout, Layouts
from normc.passes.analyses.request import Request
from normc.passes.analyses.shares import MOST, Share, shares
from normc.passes.analyses.vectors import Vectors
from normc.plans.row import Block


@dataclass(frozen=True, slots=True)
class Blocks:
    """The blocks of every parameter that has any."""

    of: Mapping[str, tuple[Block, ...]]


@analysis("blocks")
def blocks(model: ModelGraph, facts: Facts, log: Log) -> Blocks:
    """Blocks of every matrix, then those of the biases and gains beside them."""
    binding, layouts = facts[Binding], facts[Layouts]
    consumed: dict[Axis, list[Consumption]] = {}
    for consumption in binding.consumptions:
        if consumption.node.op == "output" or consumption.node in facts[Flow].graded:
            consumed.setdefault(consumption.axis, []).append(consumption)
    found: dict[str, tuple[Block, ...]] = {}
    for parameter in model.parameters:
        layout = layouts.of[parameter.name]
        if layout.principal is not None and layout.principal.kind in MATRIX and not layout.problem:
            own, found_here = _grouped(parameter, layout, log), list[Share]()
            if not own:
                found_here = _shares(parameter, layout, binding, consumed, log)
                own = _by_shares(parameter, layout, found_here, log)
            if facts[Request].heads:
                own = by_heads(parameter, layout, own, found_here, binding.separations, log)
            if own:
                found[parameter.name] = own
    vectors = Vectors(found, consumed, binding, log)
    beside = {parameter.name: vectors.blocks(parameter, layouts.of[parameter.name]) for parameter in model.parameters}
    return Blocks(found | {name: own for name, own in beside.items() if own})


def _grouped(parameter: Parameter, layout: Layout, log: Log) -> tuple[Block, ...]:
    """Blocks that the op itself keeps apart inside an axis: a convolution's groups, heads of a batched product."""
    assert layout.principal is not None
    for part in layout.principal.parts:
        if part.use == "block" and 1 < part.size < parameter.shape[part.axis] and _tiles(part, parameter):
            label = _stack_labels(layout.principal)
            spans = [_stretch(part, i, parameter.shape[part.axis]) for i in range(part.size)]
            if part.axis in layout.where("block") or not _fill(spans, parameter.shape[part.axis]):
                continue
            claim = f"{part.size} of {parameter.shape[part.axis] // part.size} on axis {part.axis}"
            node = layout.principal.node
            log.because(parameter.name, "blocks", claim, f"{op_name(node)} keeps them apart", node)
            return tuple(Block(label(i), part.axis, span) for i, span in enumerate(spans))
    return ()


def _tiles(part: Part, parameter: Parameter) -> bool:
    """Whether whole periods of the blocks fill the axis: not so of its frequencies."""
    return parameter.shape[part.axis] % (part.size * part.stride or 1) == 0


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


def _fill(blocks: list[Spans], size: int) -> bool:
    """Whether blocks fill an axis without overlap."""
    spans = [span for block in blocks for span in block]
    return merge(spans) == ((0, size),) and sum(stop - start for start, stop in spans) == size


def _shares(
    parameter: Parameter, layout: Layout, binding: Binding, consumed: Mapping[Axis, list[Consumption]], log: Log
) -> list[Share]:
    """Shares of the first output axis that has several; else of the first one, which is one share."""
    found: list[Share] = []
    for index in layout.where("out"):
        places: list[tuple[Spans, Place]] = [
            (use.spans, (use.node, use.slot)) for use in consumed.get(Axis(parameter.name, index), ())
        ]
        for contact in binding.contacts[parameter.name]:
            spans = dict(contact.spans).get(index, ((0, parameter.shape[index]),))
            if contact.kind in MATRIX:
                places.append((spans, (contact.node, -1)))
        own = shares(places, index, parameter.shape[index])
        if own is None:
            log.notes.append(f"{parameter.name} is taken for one block: its outputs alternate more than {MOST:,} times")
            return []
        if len(own) > 1:
            return own
        found = found or own
    return found


def _by_shares(parameter: Parameter, layout: Layout, found: list[Share], log: Log) -> tuple[Block, ...]:
    if len(found) < 2:
        return ()
    own = tuple(Block(share.label, share.axis, share.spans) for share in found)
    node = next(iter(found[0].places), (layout.principal.node if layout.principal else None, 0))[0]
    sizes = ", ".join(f"{block.label} {block.size}" for block in own)
    log.because(
        parameter.name, "blocks", f"{sizes} on axis {own[0].axis}", "its output's parts go to different places", node
    )
    return own
