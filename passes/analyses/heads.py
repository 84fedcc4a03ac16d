"""Attention heads as blocks, where the user asks for them: what a product of two activations keeps apart.

Heads are no blocks by default: Muon, Scion and Modula give q, k and v one norm each.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from normc.model.facts import Log
from normc.model.ops.separation import Separation
from normc.model.ops.slices import without
from normc.model.ops.value import Axis, Spans, Value, covered, merge
from normc.model.trace.graph import Parameter
from normc.passes.analyses.layout import Layout
from normc.passes.analyses.shares import Share
from normc.plans.row import Block

_MOST = 4096


def by_heads(
    parameter: Parameter,
    layout: Layout,
    parts: tuple[Block, ...],
    found: Sequence[Share],
    separations: Sequence[Separation],
    log: Log,
) -> tuple[Block, ...]:
    """`parts` (of the whole output axis, if there are none), each cut into the heads that attention makes of it."""
    outs = layout.where("out")
    if len(outs) != 1 or any(part.axis != outs[0] for part in parts):
        return parts
    axis = Axis(parameter.name, outs[0])
    whole = (Block("", axis.number, ((0, parameter.shape[axis.number]),)),)
    loops = {share.spans: share for share in found if share.label in ("q", "k", "v") and len(share.members) > 1}
    cut: list[Block] = []
    for part in parts or whole:
        heads, node = _heads_of(part, axis, separations)
        if node is None and part.spans in loops:
            heads, node = loops[part.spans].members, loops[part.spans].places[0][0]
        cut += _named(part, heads)
        if node is not None:
            claim = f"{part.label} {len(heads)} heads of {cut[-1].size} on axis {axis.number}".strip()
            log.because(parameter.name, "blocks", claim, "attention keeps them apart, and heads were asked for", node)
    return tuple(cut) if len(cut) > 1 else parts


def _named(part: Block, heads: Sequence[Spans]) -> list[Block]:
    label = f"{part.label} head".strip()
    return [Block(f"{label} {i}", part.axis, spans) for i, spans in enumerate(heads)] or [part]


def _heads_of(part: Block, axis: Axis, separations: Sequence[Separation]) -> tuple[Sequence[Spans], fx.Node | None]:
    for separation in separations:
        heads = _slices(separation, axis)
        if len(heads) > 1 and merge(span for head in heads for span in head) == part.spans:
            return heads, separation.node
    return (), None


def _slices(separation: Separation, axis: Axis) -> list[Spans]:
    """The entries of `axis` at each place of the dimensions that are kept apart, as far as they number heads."""
    values = [separation.value]
    for place in (*separation.places, *separation.rows):
        for position, factor in enumerate(separation.value.dims[place]):
            apart = any(run.axis == axis for run in factor.runs) and len(values) * factor.size <= _MOST
            if apart and _disjoint([_at(separation.value, place, position, i) for i in range(factor.size)], axis):
                values = [_at(value, place, position, i) for value in values for i in range(factor.size)]
    return [value.origins(closed=True)[axis] for value in values] if len(values) > 1 else []


def _disjoint(values: list[Value], axis: Axis) -> bool:
    spans = [value.origins(closed=True).get(axis, ()) for value in values]
    return all(spans) and sum(map(covered, spans)) == covered(span for own in spans for span in own)


def _at(value: Value, place: int, position: int, index: int) -> Value:
    """The value at one entry of a factor, which stays."""
    dim = value.dims[place]
    factor = dim[position].cut(index, 1)
    gone = {run.thread for run in dim[position].runs} - {run.thread for run in factor.runs}
    cut = (*dim[:position], factor, *dim[position + 1 :])
    return without(value.with_dims((*value.dims[:place], cut, *value.dims[place + 1 :])), gone)
