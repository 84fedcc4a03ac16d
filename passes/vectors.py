"""Blocks of a bias or a gain: those of the output that it is added to or multiplies, entry by entry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from normc.facts import Log
from normc.ops.call import Consumption, Contact
from normc.ops.partners import Partner
from normc.ops.value import Axis, Spans, merge
from normc.passes.bind import Binding
from normc.passes.labels import labels
from normc.passes.layout import Layout
from normc.passes.shares import partition
from normc.plans.row import Block
from normc.trace.graph import Parameter

# A block of a weight's output axis; without a label, all of the axis.
Met = tuple[Axis, str]


@dataclass(frozen=True, slots=True)
class Vectors:
    """The blocks found of matrices, and where their outputs go."""

    found: Mapping[str, tuple[Block, ...]]
    consumed: Mapping[Axis, list[Consumption]]
    binding: Binding
    log: Log

    def blocks(self, parameter: Parameter, layout: Layout) -> tuple[Block, ...]:
        """Blocks along the first axis on which what the parameter meets has several, or none."""
        contact = layout.principal
        if contact is None or contact.kind not in ("shift", "gain") or layout.problem:
            return ()
        alike = [other for other in self.binding.contacts[parameter.name] if other.kind == contact.kind]
        for axis in layout.where("out"):
            met = [pair for other in alike for pair in self._met(other, Axis(parameter.name, axis))]
            parts = partition(met, parameter.shape[axis]) or []
            if len(parts) > 1:
                return self._explained(contact, axis, parts)
        return ()

    def _explained(self, contact: Contact, axis: int, parts: list[tuple[tuple[Met, ...], Spans]]) -> tuple[Block, ...]:
        names = self._labels([met for met, _ in parts])
        sources = ", ".join(sorted({owner.parameter for met, _ in parts for owner, _ in met}))
        verb = "added to" if contact.kind == "shift" else "multiplied with"
        claim = f"{len(parts)} along axis {axis}"
        self.log.because(contact.parameter, "blocks", claim, f"it is {verb} the output of {sources}", contact.node)
        return tuple(Block(label, axis, spans) for label, (_, spans) in zip(names, parts, strict=True))

    def _met(self, contact: Contact, own: Axis) -> Iterator[tuple[Spans, Met]]:
        """Entries of `own` with the block that they meet."""
        for partner in contact.partners:
            if partner.own == own:
                blocks = [block for block in self.found.get(partner.axis.parameter, ())
                          if block.axis == partner.axis.number and not block.label.startswith("group")]  # fmt: skip
                within = [(_within(partner, block.spans), (partner.axis, block.label)) for block in blocks]
                whole = merge(_entries(partner, 0, partner.size))
                if sum(stop - start for spans, _ in within for start, stop in spans) == partner.size:
                    yield from ((spans, met) for spans, met in within if spans)
                else:
                    yield whole, (partner.axis, "")

    def _labels(self, parts: list[tuple[Met, ...]]) -> list[str]:
        """The blocks' own labels; of an output without blocks, what all of it is."""
        whole = [{(use.node, use.slot) for axis, label in met if not label for use in self.consumed.get(axis, ())}
                 for met in parts]  # fmt: skip
        found = labels(whole)
        for number, met in enumerate(parts):
            own = {label for _, label in met if label}
            if len(own) == 1:
                found[number] = own.pop()
        return found


def _within(partner: Partner, spans: Spans) -> Spans:
    """The partner's own entries of which all that they meet lies in the spans."""
    low, high = partner.around[0][0], partner.around[-1][1]
    inside: list[tuple[int, int]] = []
    for start, stop in spans:
        if partner.step == 0:
            first, last = (0, partner.size) if start <= partner.first + low and partner.first + high <= stop else (0, 0)
        else:
            first = max(0, -(-(start - partner.first - low) // partner.step))
            last = min(partner.size, (stop - partner.first - high) // partner.step + 1)
        inside += _entries(partner, first, last)
    return merge(inside)


def _entries(partner: Partner, first: int, last: int) -> list[tuple[int, int]]:
    start = partner.start + first * partner.stride
    if partner.stride == 1 or last <= first:
        return [(start, start + max(0, last - first))]
    return [(start + i * partner.stride, start + i * partner.stride + 1) for i in range(last - first)]
