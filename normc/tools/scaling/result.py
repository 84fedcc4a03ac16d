"""What is known of a plan's step over the ranks of a mesh: rows, bytes, load, predicted times."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from normc.errors import NormcError
from normc.passes.rewrites.windows import pipelined
from normc.plans.plan import NormPlan
from normc.tools.scaling.mesh import Mesh
from normc.tools.scaling.traffic import Traffic
from normc.update.program.rates import Rates

VOTE = 1  # small collective calls of a step for each team of ranks: do all have the same gradients, all of them finite?


@dataclass(frozen=True, slots=True)
class Placed:
    """How one row is stepped.

    scheme     "local" entry by entry on each rank's shard, "apart" on shards that hold whole blocks or vectors,
               "owner" whole on one rank, "everywhere" whole on all ranks, "none" for a row without an update
    owner      the rank that steps it whole, in the order of the mesh
    bytes_in   what the owner gets from others in a step; `bytes_out` what it hands them
    flops      operations in products, all ranks' together, of one replica
    cost       what the owner is chosen by
    reason     why this scheme
    placement  how it lies
    """

    name: str
    scheme: str
    owner: int | None
    bytes_in: int
    bytes_out: int
    flops: int
    cost: int
    reason: str
    placement: str


@dataclass(frozen=True, slots=True)
class Work:
    """What ranks do in a step: operations, bytes of their memory that are moved, and costs, by rank; of what owners do
    for others, seconds by window and rank.
    """

    flops: Tensor
    moved: Tensor
    costs: Tensor
    alone: float  # seconds that one rank takes for all of it
    windows: Tensor


class Crossed(NamedTuple):
    """The exchanges of a window and a team of ranks."""

    there: Traffic
    back: Traffic


@dataclass(frozen=True, eq=False)
class Result:
    """A plan's step on a mesh. `crossed` are a step's exchanges by window, and by team that owns something there."""

    plan: NormPlan
    mesh: Mesh
    rates: Rates
    rows: tuple[Placed, ...]
    crossed: tuple[tuple[Crossed, ...], ...]
    work: Work
    teams: int

    @cached_property
    def by_name(self) -> Mapping[str, Placed]:
        """Rows by name."""
        return {row.name: row for row in self.rows}

    @property
    def schemes(self) -> Mapping[str, int]:
        """How many rows each scheme has."""
        names = [row.scheme for row in self.rows]
        return {name: names.count(name) for name in dict.fromkeys(names)}

    @cached_property
    def exchanges(self) -> tuple[Traffic, ...]:
        """All of them."""
        return tuple(each for window in self.crossed for team in window for each in team)

    @cached_property
    def sent(self) -> tuple[int, ...]:
        """Bytes that each rank sends to others in a step."""
        return tuple(int(own) for own in sum((each.sent for each in self.exchanges), self._none()))

    @cached_property
    def received(self) -> tuple[int, ...]:
        """Bytes that each rank gets from others in a step."""
        return tuple(int(own) for own in sum((each.received for each in self.exchanges), self._none()))

    def _none(self) -> Tensor:
        return torch.zeros(self.mesh.ranks, dtype=torch.int64)

    @property
    def calls(self) -> int:
        """Collective calls of a step."""
        return len(self.exchanges) + VOTE * self.teams

    @property
    def load(self) -> float:
        """The most that a rank has to do of what is owned, over the mean of all ranks; 1 is even."""
        total = int(self.work.costs.sum())
        return int(self.work.costs.max()) * self.mesh.ranks / total if total else 1.0

    @property
    def compute_ms(self) -> float:
        """Predicted milliseconds of the busiest rank's own work."""
        seconds = self.work.flops.double() / self.rates.flops + self.work.moved.double() / self.rates.memory
        return float(seconds.max()) * 1e3

    @property
    def communication_ms(self) -> float:
        """Predicted milliseconds of the collective calls, hidden behind work or not."""
        if self.mesh.ranks == 1:
            return 0.0
        return (sum(each.seconds(self.rates) for each in self.exchanges) + VOTE * self.teams * self.rates.latency) * 1e3

    @property
    def exposed_ms(self) -> float:
        """Predicted milliseconds of the collective calls that no work of the busiest rank hides, and of starting
        windows.
        """
        return self.ms - self.compute_ms

    @cached_property
    def ms(self) -> float:
        """Predicted milliseconds of a step: shards' work, and owners' windows with messages beside them."""
        if self.mesh.ranks == 1:
            return self.compute_ms
        rates = self.rates
        there, back = ([sum(team[side].seconds(rates) for team in window) for window in self.crossed]
                       for side in (0, 1))  # fmt: skip
        own = self.work.windows
        started = list(torch.where(own > 0, own + rates.launch, own))
        everything = self.work.flops.double() / rates.flops + self.work.moved.double() / rates.memory
        shards = float((everything - own.sum(0)).max())
        return (shards + pipelined(there, started, back) + VOTE * self.teams * rates.latency) * 1e3

    @property
    def alone_ms(self) -> float:
        """Predicted milliseconds of the same step on one rank that holds everything."""
        return self.work.alone * 1e3

    @property
    def efficiency(self) -> float:
        """What part of perfect scaling is reached: the time alone over ranks times the time here."""
        return self.alone_ms / (self.mesh.ranks * self.ms) if self.ms else 1.0

    def matching(self, pattern: str) -> tuple[Placed, ...]:
        """Rows of that name, or that a glob matches. NormcError if none does."""
        found = tuple(row for row in self.rows if row.name == pattern or fnmatch.fnmatchcase(row.name, pattern))
        if not found:
            raise NormcError(f"no parameter of {self.plan.model} matches {pattern!r}", "print the plan to see all")
        return found
