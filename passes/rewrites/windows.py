"""Owners' work in windows: what crosses ranks for one of them goes under the products of another."""

from __future__ import annotations

import math
from collections import Counter
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

NUMBERS = (1, 2, 3, 4, 6, 8, 12, 16)  # of windows
GAIN = 0.01  # of a step's time, that more windows have to save


@dataclass(frozen=True, slots=True)
class Load:
    """What owners do in a step, by row: operations, the owner among so many `ranks`, and the bytes that it gets from
    others and hands them.
    """

    costs: Sequence[int]
    owners: Sequence[int]
    there: Sequence[float]
    back: Sequence[float]
    ranks: int


def beside(device: Device, rates: Rates) -> Rates | None:
    """The rates of a device where messages go beside products; None on a CPU, whose processor they take."""
    return rates if device.type == "cuda" else None


def load_of(
    chains: Sequence[Chain],
    cuts: Mapping[int, Cut],
    places: Places,
    costs: Sequence[int],
    owners: Sequence[int],
    ranks: int,
) -> Load:
    """The load of a team's owned rows."""
    sent: tuple[list[float], list[float]] = ([], [])
    shares: dict[int, tuple[Held, float, float]] = {}
    for chain, owner in zip(chains, owners, strict=True):
        held, own, wide = places[chain.row.name][1], cuts[id(chain.graph)], state_dtype(chain.row).itemsize
        if id(held) not in shares:
            copies = sum(math.prod(held.local(rank)) for rank in range(ranks)) / max(1, chain.row.numel)
            sources = held.alike.count(held.alike[owner])
            shares[id(held)] = (held, 1.0 - 1.0 / sources, copies * (1.0 - 1.0 / ranks))
        for side, crossing, share in zip(sent, (own.there, own.back), shares[id(held)][1:], strict=True):
            sizes = (
                (chain.row.numel if one.kind == "like" else math.prod(shape_of(one.kind)))
                * (one.wire.itemsize if one.wire is not None else wide)
                for one in crossing
            )
            side.append(share * sum(sizes))
    return Load(costs, owners, *sent, ranks)


def number_of(load: Load, rates: Rates | None) -> int:
    """How many windows take the least time: fewer ones where more save next to nothing. One where there are no rates
    (`beside`).
    """
    if rates is None or not load.costs:
        return 1
    most = max(Counter(load.owners).values())
    found = {number: _seconds(load, rates, number) for number in NUMBERS if number <= most}
    least = min(found.values())
    return next(number for number, seconds in found.items() if seconds <= least + GAIN * found[1])


def _seconds(load: Load, rates: Rates, number: int) -> float:
    """What so many windows take. An exchange ends with the owner that gets or hands on most, or with a rank's share."""
    wire = rates.within if load.ranks <= rates.node else rates.between
    windows = torch.tensor(windows_of(load.costs, load.owners, number))
    used = int(windows.max()) + 1
    place = windows * load.ranks + torch.tensor(load.owners)

    def by_window(values: Sequence[float]) -> Tensor:
        sums = torch.zeros(used * load.ranks, dtype=torch.float64)
        return sums.index_add_(0, place, torch.tensor(values, dtype=torch.float64)).view(used, load.ranks)

    def seconds(values: Sequence[float]) -> list[float]:
        sums = by_window(values)
        most: list[float] = torch.maximum(sums.amax(1), sums.mean(1)).tolist()
        return [rates.latency + rates.message * (load.ranks - 1) + size / wire for size in most]

    work = by_window([cost / rates.flops for cost in load.costs])
    started = list(torch.where(work > 0, work + rates.launch, work))
    return pipelined(seconds(load.there), started, seconds(load.back))


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
