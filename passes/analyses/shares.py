"""Shares of an output axis: which of its entries go to the same places, or to places that treat them alike."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable
from itertools import pairwise
from typing import NamedTuple, TypeVar

from normc.model.ops.value import Spans, covered, merge
from normc.passes.analyses.alike import Alike, Place, filters, joins, kinds
from normc.passes.analyses.labels import labels

T = TypeVar("T", bound=Hashable)
MOST = 1 << 15


class Share(NamedTuple):
    """Entries of an axis that act as one; `members` are those that a loop treats one after the other."""

    label: str
    axis: int
    members: tuple[Spans, ...]
    places: tuple[Place, ...]

    @property
    def spans(self) -> Spans:
        """All entries."""
        return merge(span for member in self.members for span in member)


def shares(places: list[tuple[Spans, Place]], axis: int, size: int) -> list[Share] | None:
    """Shares by the places that entries reach; None if there are too many stretches.

    Members that are treated alike, as heads in a loop are, make one share. So do single entries that ops of one kind
    take, each with an operand of its own: coefficients of a mixture. A single entry that goes wherever the rest go, and
    is read by itself besides (a state's entry that tells when to halt), is no part of its own.
    """
    parts = partition(places, size)
    if parts is None:
        return None
    common = set(parts[0][0]).intersection(*(where for where, _ in parts[1:]))
    parts = _whole(parts, common)
    own = [tuple(place for place in where if place not in common) for where, _ in parts]
    members: dict[int, list[Spans]] = {}
    single: dict[frozenset[tuple[str, int]], int] = {}
    rest = own.index(()) if () in own else None
    for first, where, (_, spans) in zip(Alike().together(own), own, parts, strict=True):
        number = first
        if covered(spans) == 1:
            number = single.setdefault(kinds(where), first) if rest is None else rest
        members.setdefault(number, []).append(spans)
    names = labels([set(parts[first][0]) for first in members])
    return [
        Share(label, axis, tuple(spans), parts[first][0])
        for label, (first, spans) in zip(names, members.items(), strict=True)
    ]


def _whole(parts: list[tuple[tuple[Place, ...], Spans]], common: set[Place]) -> list[tuple[tuple[Place, ...], Spans]]:
    """The parts, where those that meet the same product are one: filters of several windows beside it make no parts.

    CoaT's values meet the keys as one, and their channels go through depthwise convolutions of three windows besides.
    """
    found: dict[tuple[Place, ...], list[tuple[tuple[Place, ...], Spans]]] = {}
    for where, spans in parts:
        met = tuple(place for place in where if not (place in common or filters(place[0]) or joins(place[0])))
        found.setdefault(met or where, []).append((where, spans))
    return [
        (
            tuple(dict.fromkeys(place for where, _ in group for place in where)),
            merge(span for _, own in group for span in own),
        )
        for group in found.values()
    ]


def partition(places: list[tuple[Spans, T]], size: int) -> list[tuple[tuple[T, ...], Spans]] | None:
    """Stretches of an axis by the places that they reach; None if there are too many.

    What reaches nothing (a table's rows beyond the example's length) stays with its neighbour.
    """
    edges = sorted({0, size} | {edge for spans, _ in places for span in spans for edge in span if 0 <= edge <= size})
    if len(edges) > MOST:
        return None
    reached: dict[int, list[T]] = {start: [] for start in edges[:-1]}
    for spans, place in places:
        for start, stop in spans:
            for edge in edges[bisect_left(edges, start) : bisect_left(edges, min(stop, size))]:
                reached[edge].append(place)
    groups: dict[tuple[T, ...], list[tuple[int, int]]] = {}
    previous = tuple(dict.fromkeys(next((found for found in reached.values() if found), [])))
    for start, stop in pairwise(edges):
        previous = tuple(dict.fromkeys(reached[start])) or previous
        groups.setdefault(previous, []).append((start, stop))
    return [(where, merge(spans)) for where, spans in groups.items()]
