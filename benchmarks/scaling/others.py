"""Others' schemes on the same matrices, by their own rules for owners, priced at the same rates.

All are given normc's operations (the Gram form), so that the table compares how work and bytes are shared out, not
kernels.

DistMuon   torchtitan's distributed Muon: parameters cut along axis 0 over all ranks; buckets of two layers, those of
           experts apart; in each, owners by longest processing time first on steps * s^2 (2 l + s) for sides s <= l,
           ties by bytes, then by the load of earlier buckets; one exchange there and one back a bucket, in the
           parameters' float32; two buckets are under way at a time, and messages hide behind work
Megatron   the layer-wise optimizer: whole parameters on owners that keep their states, within each bucket of gradients
           (40 M entries, or 1 M a rank if that is more) by longest processing time first on l s^2, loads carried on,
           a rank's entries capped at 1.3 times the mean; matrices cross with the reduce-scatter and all-gather that
           ZeRO-1 has anyway, so no bytes of its own. Every rank holds all weights
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.distributed.tensor import Shard

from normc.passes.rewrites.windows import pipelined
from normc.plans.row import Row
from normc.tools.scaling.traffic import Kinds, traffic
from normc.update.program.rates import Rates
from normc.update.program.work import newton_schulz
from normc.update.runtime.spread import Value, held

STEPS = 5
LAYERS = 2  # of a bucket of DistMuon's
WIRE = torch.float32
CAP = 1.3
ENTRY = 20  # bytes that elementwise work moves for an entry: gradient read, average and weight read and written
PACKED = 16  # and for one that goes there and back, on the rank that holds it
WHOLE = 24  # and on its owner


@dataclass(frozen=True)
class Matrix:
    """A hidden matrix: its sides, its layer, whether it is an expert's; `flops` in the Gram form, by its blocks."""

    name: str
    shape: tuple[int, int]
    sides: tuple[int, int]
    layer: int
    expert: bool
    flops: int

    @property
    def numel(self) -> int:
        """Entries."""
        return self.shape[0] * self.shape[1]


@dataclass(frozen=True)
class Priced:
    """A scheme's step: most bytes that a rank sends, load (most over mean), predicted milliseconds."""

    sent: float
    load: float
    ms: float


def matrices(rows: Iterable[Row]) -> list[Matrix]:
    """The hidden matrices of a model."""
    found = []
    for row in rows:
        if row.role == "hidden":
            short, long = sorted(row.shape)
            flops = sum(newton_schulz(min(fans), max(fans), STEPS) for fans in row.block_fans)
            layer = int(next(iter(re.findall(r"\.(\d+)\.", row.name))))
            shape = (row.shape[0], row.shape[1])
            found.append(Matrix(row.name, shape, (short, long), layer, ".experts." in row.name, flops))
    return found


def buckets(found: Sequence[Matrix]) -> list[list[Matrix]]:
    """DistMuon's: two layers each, experts apart."""
    groups: dict[tuple[int, bool], list[Matrix]] = {}
    for each in found:
        groups.setdefault((each.layer // LAYERS, each.expert), []).append(each)
    return list(groups.values())


def _titan_cost(each: Matrix) -> int:
    short, long = each.sides
    return STEPS * short**2 * (2 * long + short)


def distmuon(found: Sequence[Matrix], ranks: int, rates: Rates, moved: float) -> Priced:
    """The step over ranks; `moved` is the seconds of elementwise work, which all schemes share out alike."""
    kinds = Kinds()
    total = [0] * ranks
    operations = np.zeros(ranks)
    sent = torch.zeros(ranks, dtype=torch.int64)
    there: list[float] = []
    back: list[float] = []
    work: list[torch.Tensor] = []
    for bucket in buckets(found):
        heap = [(0, 0, total[rank], rank) for rank in range(ranks)]
        heapq.heapify(heap)
        own = np.zeros(ranks)
        values = []
        for each in sorted(bucket, key=_titan_cost, reverse=True):
            load, size, earlier, rank = heap[0]
            heapq.heapreplace(heap, (load + _titan_cost(each), size + each.numel, earlier, rank))
            total[rank] += _titan_cost(each)
            own[rank] += each.flops / rates.flops + WHOLE * each.numel / rates.memory
            operations[rank] += each.flops
            lies = held(each.shape, (ranks,), (Shard(0),))
            values.append(Value((each.name, ""), lies, WIRE, rank))
        for inward, seconds in ((True, there), (False, back)):
            crossing = traffic(values, ranks, rates.node, inward, kinds)
            sent += crossing.sent
            seconds.append(crossing.seconds(rates))
        work.append(torch.from_numpy(np.where(own > 0, own + rates.launch, own)))
    packed = PACKED * sum(each.numel for each in found) / ranks / rates.memory
    return Priced(float(sent.max()), _load(operations), (pipelined(there, work, back) + packed + moved) * 1e3)


def megatron(found: Sequence[Matrix], ranks: int, rates: Rates, moved: float, all_entries: int) -> Priced:
    """The layer-wise step. Matrices are moved by their owners, all else (a share of `moved`) is cut evenly."""
    loads, operations, entries = np.zeros(ranks), np.zeros(ranks), np.zeros(ranks)
    most = max(40_000_000, 1_000_000 * ranks)
    bucket: list[Matrix] = []
    size = 0
    for each in [*reversed(found), None]:
        if each is not None:
            bucket.append(each)
            size += each.numel
        if bucket and (each is None or size >= most):
            held_entries = np.zeros(ranks)
            cap = max(CAP * size / ranks, max(own.numel for own in bucket))
            for own in sorted(bucket, key=lambda own: -(own.sides[1] * own.sides[0] ** 2)):
                open_ones = held_entries + own.numel <= cap
                rank = int(np.argmin(np.where(open_ones, loads, np.inf) if open_ones.any() else held_entries))
                held_entries[rank] += own.numel
                loads[rank] += own.sides[1] * own.sides[0] ** 2
                operations[rank] += own.flops
            entries += held_entries
            bucket, size = [], 0
    rest = moved * (1 - sum(own.numel for own in found) / all_entries)
    seconds = rest + float((operations / rates.flops + entries * ENTRY / rates.memory).max())
    return Priced(0.0, _load(operations), seconds * 1e3)


def _load(operations: np.ndarray) -> float:
    return float(operations.max() / operations.mean())


def duplicated(found: Sequence[Matrix], ranks: int, rates: Rates) -> Priced:
    """Megatron's tensor parallelism, duplicated: every rank gathers every matrix in bf16 and does all the work."""
    sent = 2.0 * sum(own.numel for own in found) * (ranks - 1) / ranks
    seconds = sum(own.flops for own in found) / rates.flops + sent / rates.within + len(found) * rates.latency
    return Priced(sent, 1.0, seconds * 1e3)


def reduced(found: Sequence[Matrix], ranks: int, rates: Rates, cut: Sequence[int]) -> Priced:
    """Megatron's tensor parallelism, distributed: Gram matrices are summed over ranks in every iteration, in bf16.

    The n x n products are repeated on all ranks: T n^3 (4 a / P + 2) operations, 2 T n^2 (P - 1) / P numbers sent.
    `cut` is the axis that each matrix is cut along: n is the other side, be it the longer one.
    """
    sent = operations = 0.0
    for own, axis in zip(found, cut, strict=True):
        n, m = own.shape[1 - axis], own.shape[axis]
        operations += STEPS * n**2 * (4 * m / ranks + 2 * n)
        sent += 2 * STEPS * 2.0 * n * n * (ranks - 1) / ranks
    calls = STEPS * len(found)
    seconds = operations / rates.flops + sent / rates.within + calls * rates.latency
    return Priced(sent, 1.0, seconds * 1e3)
