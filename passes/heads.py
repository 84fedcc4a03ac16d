"""Attention heads as blocks, where the user asks for them: what a product of two activations keeps apart.

Heads are no blocks by default: Muon, Scion and Modula give q, k and v one norm each.
"""

from __future__ import annotations

from collections.abc import Sequence

from normc.facts import Log
from normc.ops.call import Separation
from normc.ops.value import Axis, Spans, merge
from normc.passes.layout import Layout
from normc.plans.row import Block
from normc.trace.graph import Parameter


def by_heads(
    parameter: Parameter, layout: Layout, parts: tuple[Block, ...], separations: Sequence[Separation], log: Log
) -> tuple[Block, ...]:
    """`parts` (of the whole output axis, if there are none), each cut into the heads that attention makes of it."""
    outs = layout.where("out")
    if len(outs) != 1 or any(part.axis != outs[0] for part in parts):
        return parts
    axis = Axis(parameter.name, outs[0])
    whole = (Block("", axis.number, ((0, parameter.shape[axis.number]),)),)
    cut: list[Block] = []
    for part in parts or whole:
        heads, seen = _heads_of(part, axis, separations)
        cut += heads
        if seen is not None:
            claim = f"{part.label} {len(heads)} heads of {heads[0].size} on axis {axis.number}".strip()
            log.because(
                parameter.name, "blocks", claim, "attention keeps them apart, and heads were asked for", seen.node
            )
    return tuple(cut) if len(cut) > 1 else parts


def _heads_of(part: Block, axis: Axis, separations: Sequence[Separation]) -> tuple[list[Block], Separation | None]:
    for separation in separations:
        heads = _slices(separation, axis)
        if len(heads) > 1 and merge(span for head in heads for span in head) == part.spans:
            label = f"{part.label} head".strip()
            return [Block(f"{label} {i}", axis.number, spans) for i, spans in enumerate(heads)], separation
    return [part], None


def _slices(separation: Separation, axis: Axis) -> list[Spans]:
    """The entries of `axis` at each place of the batch axis."""
    value, place = separation.value, separation.place
    dim = value.dims[place]
    for position, factor in enumerate(dim):
        if any(run.axis == axis for run in factor.runs):
            found = []
            for i in range(factor.size):
                cut = (*dim[:position], factor.cut(i, 1), *dim[position + 1 :])
                found.append(value.with_dims((*value.dims[:place], cut, *value.dims[place + 1 :])).origins()[axis])
            return found
    return []
