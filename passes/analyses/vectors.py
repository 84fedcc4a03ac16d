"""Blocks of a bias or a gain: those of the output that it is added to or multiplies, entry by entry."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from normc.model.facts import Log
from normc.model.ops.call import Consumption, Contact
from normc.model.ops.partners import Partner
from normc.model.ops.value import Axis, Spans, merge
from normc.model.trace.graph import Parameter
from normc.passes.analyses.bind import Binding
from normc.passes.analyses.labels import labels
from normc.passes.analyses.layout import Layout
from normc.passes.analyses.shares import partition
from normc.plans.row import Block

# A block of a weight's output axis; without a label, all of the axis.
Met = tuple[Axis, str]
_MOST_STEPS = 1 << 14


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
        """Entries of `own` with the block that they meet: as a dimension tells that has all of each in one block."""
        several: dict[Axis, dict[int, list[Partner]]] = {}
        for partner in contact.partners:
            if partner.own == own:
                several.setdefault(partner.axis, {}).setdefault(partner.spot, []).append(partner)
        for axis, spots in several.items():
            blocks = [block for block in self.found.get(axis.parameter, ())
                      if block.axis == axis.number and not block.label.startswith("group")]  # fmt: skip
            told = (list(_told(partners, blocks)) for partners in spots.values())
            first = next(iter(spots.values()))
            whole = [(merge(span for partner in first for span in _own(partner, range(partner.size))), "")]
            for spans, label in next((found for found in told if found), whole):
                yield spans, (axis, label)

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


def _told(partners: list[Partner], blocks: list[Block]) -> Iterator[tuple[Spans, str]]:
    """The entries of each block; nothing if a step lies in no single block, or there are too many steps."""
    steps = [(partner, [_inside(partner, block.spans) for block in blocks]) for partner in partners]
    if all(sum(len(run) for runs in inside for run in runs) == partner.size for partner, inside in steps):
        for number, block in enumerate(blocks):
            spans = merge(span for partner, inside in steps for run in inside[number] for span in _own(partner, run))
            if spans:
                yield spans, block.label


def _inside(partner: Partner, spans: Spans) -> list[range]:
    """The steps at which all that is met lies in one of the spans, in runs."""
    low, high = partner.around[0][0], partner.around[-1][1]
    if len(partner.around) == 1 and partner.step > 0:
        return [run for span in spans if (run := _run(partner, span[0] - low, span[1] - high))]
    if partner.size * len(partner.around) > _MOST_STEPS:
        return []
    starts = [start for start, _ in spans]

    def holds(start: int, stop: int) -> bool:
        at = bisect_right(starts, start) - 1
        return at >= 0 and stop <= spans[at][1]

    firsts = ((i, partner.first + i * partner.step) for i in range(partner.size))
    return [
        range(i, i + 1)
        for i, first in firsts
        if all(holds(first + start, first + stop) for start, stop in partner.around)
    ]


def _run(partner: Partner, low: int, high: int) -> range:
    """The steps at which the first entry that is met lies from `low` to `high`, both included."""
    first = max(0, -(-(low - partner.first) // partner.step))
    return range(first, max(first, min(partner.size, (high - partner.first) // partner.step + 1)))


def _own(partner: Partner, steps: range) -> list[tuple[int, int]]:
    """The parameter's own entries at these steps."""
    if partner.beside == ((partner.beside[0][0], partner.beside[0][0] + partner.stride),):
        first = partner.start + partner.beside[0][0]
        return [(first + steps.start * partner.stride, first + steps.stop * partner.stride)] if steps else []
    firsts = (partner.start + i * partner.stride for i in steps)
    return [(first + start, first + stop) for first in firsts for start, stop in partner.beside]
