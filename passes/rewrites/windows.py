"""Owners' work in windows: what crosses ranks for one of them goes under the products of another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from normc.passes.rewrites.cutting import Cut
from normc.update.program.build import Device
from normc.update.program.program import Chain, state_dtype
from normc.update.program.rates import Rates
from normc.update.runtime.lying import shape_of
from normc.update.runtime.spread import Held
from normc.update.runtime.windows import SLOTS

Places = Mapping[str, tuple[int, Held]]  # of each row: over which team it lies, and who holds what

MOST = 16  # windows
GAIN = 0.01  # of a step's time, that more windows have to save


@dataclass(frozen=True, slots=True)
class Load:
    """What owners do in a step: operations of the rank with most work, bytes that a rank sends there and back, over so
    many `ranks`, and the most matrices that a rank owns.
    """

    work: int
    there: float
    back: float
    ranks: int
    matrices: int


def beside(device: Device, rates: Rates) -> Rates | None:
    """The rates of a device where messages go beside products; None on a CPU, whose processor they take."""
    return rates if device.type == "cuda" else None


def load_of(
    chains: Sequence[Chain],
    cuts: Mapping[int, Cut],
    places: Places,
    costs: Mapping[int, int],
    owners: Sequence[int],
    ranks: int,
) -> Load:
    """The load of a team's owned rows. Bytes are a rank's share of all: owners are spread evenly."""
    work, matrices, sent = [0] * ranks, [0] * ranks, [0.0, 0.0]
    shares: dict[int, tuple[Held, float, float]] = {}
    for chain, owner in zip(chains, owners, strict=True):
        held, own, wide = places[chain.row.name][1], cuts[id(chain.graph)], state_dtype(chain.row).itemsize
        if id(held) not in shares:
            copies = sum(math.prod(held.local(rank)) for rank in range(ranks)) / max(1, chain.row.numel)
            sources = held.alike.count(held.alike[owner])
            shares[id(held)] = (held, 1.0 - 1.0 / sources, copies * (1.0 - 1.0 / ranks))
        work[owner] += costs[id(chain.graph)]
        matrices[owner] += 1
        _, in_parts, handed_on = shares[id(held)]
        for side, crossing, share in ((0, own.there, in_parts), (1, own.back, handed_on)):
            for one in crossing:
                size = chain.row.numel if one.kind == "like" else math.prod(shape_of(one.kind))
                sent[side] += share * size * (one.wire.itemsize if one.wire is not None else wide) / ranks
    return Load(max(work), sent[0], sent[1], ranks, max(matrices))


def number_of(load: Load, rates: Rates | None) -> int:
    """How many windows take the least time, if everything is cut evenly: fewer ones where more save next to nothing.
    One where there are no rates (`beside`).
    """
    if rates is None:
        return 1
    wire = rates.within if load.ranks <= rates.node else rates.between
    found: dict[int, float] = {}
    for number in range(1, max(1, min(MOST, load.matrices)) + 1):
        calls = [[rates.latency + rates.message * (load.ranks - 1) + side / number / wire] * number
                 for side in (load.there, load.back)]  # fmt: skip
        work = [torch.tensor([load.work / rates.flops / number + rates.launch], dtype=torch.float64)] * number
        found[number] = pipelined(calls[0], work, calls[1])
    least = min(found.values())
    return next(number for number, seconds in found.items() if seconds <= least + GAIN * found[1])


def windows_of(costs: Sequence[int], owners: Sequence[int | None], number: int) -> list[int]:
    """The window of each row: every owner's rows, those of a cost beside each other, cut into runs of about the same
    work. Whole numbers decide, so that all machines cut alike. Rows without an owner are in the first.
    """
    found = [0] * len(costs)
    mine: dict[int, list[int]] = {}
    for index, owner in enumerate(owners):
        if owner is not None:
            mine.setdefault(owner, []).append(index)
    for own in mine.values():
        total, before = max(1, sum(costs[index] for index in own)), 0
        for index in sorted(own, key=lambda index: (-costs[index], index)):
            found[index] = min(number - 1, (2 * before + costs[index]) * number // (2 * total))
            before += costs[index]
    used = sorted({window for window, owner in zip(found, owners, strict=True) if owner is not None})
    return [used.index(window) if owner is not None else 0 for window, owner in zip(found, owners, strict=True)]


def pipelined(there: Sequence[float], work: Sequence[Tensor], back: Sequence[float]) -> float:
    """Seconds until the last window is back: messages one after another, each rank's work in order, `SLOTS` windows
    under way. `work` has seconds by rank; a rank without any waits for nothing.
    """
    stream, done = 0.0, torch.zeros_like(work[0]) if work else torch.zeros(1)
    arrived: list[float] = []
    for place in range(len(work)):
        while len(arrived) < min(place + SLOTS, len(work)):
            stream += there[len(arrived)]
            arrived.append(stream)
        busy = work[place] > 0
        done = torch.where(busy, done.clamp_min(arrived[place]) + work[place], done)
        stream = max(stream, float(done[busy].max()) if bool(busy.any()) else 0.0) + back[place]
    return max(stream, float(done.max()))
