"""How a plan's step is shared out over the ranks of a mesh, and what it takes there: no process and no device needed.

Schemes, owners and what crosses ranks are asked of what runs: `normc.passes.rewrites.distribute`
and `normc.update.runtime`. Times are predictions from counted operations and bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from normc.arguments import instance
from normc.passes.rewrites.distribute import Cut, cuts_of, needing_whole, spreads_of
from normc.pipeline import uncut
from normc.plans.plan import NormPlan
from normc.tools.scaling.mesh import Mesh, biased, read_mesh
from normc.tools.scaling.rates import Rates, rates_of
from normc.tools.scaling.result import Placed, Work
from normc.tools.scaling.table import Distribution
from normc.tools.scaling.traffic import Kinds, traffic
from normc.update.program.build import ON_CPU
from normc.update.program.program import Chain, Program, state_dtype
from normc.update.program.work import cost, flops
from normc.update.runtime.ranked import Spread, value_of
from normc.update.runtime.spread import Held, Value, held

_VIEWS = ("fold", "unfold", "take", "place", "see", "put")


def distribution(plan: NormPlan, mesh: str | Mesh, rates: Rates | Mapping[str, float] | None = None) -> Distribution:
    """How a plan's step would be shared out over the ranks of a mesh, with bytes and predicted times.

    mesh   "fsdp=8", "dp=8", "hsdp=2x4" (the same as "dp=2,fsdp=4"), "fsdp=4,tp=2", "fsdp=64,ep=8" for experts: see
           `normc.tools.scaling.mesh.Mesh` for which cuts what. Ranks are numbered with tp fastest, then fsdp, then dp
    rates  assumed speeds: some of flops, memory, within, between, latency, message, node (`Rates`)
    """
    instance("plan", plan, NormPlan, "give what normc.plan or normc.load returned")
    found = mesh if isinstance(mesh, Mesh) else read_mesh(mesh)
    return Distributed(plan).over(found, rates_of(rates))


class Distributed:
    """A plan whose chains are cut: for several meshes, one after another."""

    def __init__(self, plan: NormPlan) -> None:
        self.plan = plan
        self.program: Program = uncut(plan, ON_CPU)
        self.cuts: dict[int, Cut] = cuts_of(self.program)
        graphs = {id(chain.graph): chain for chain in self.program.chains}
        self.flops = {key: flops(chain) for key, chain in graphs.items()}
        self.costs = {key: cost(chain) for key, chain in graphs.items()}
        self.reasons = {key: _reason(chain, self.cuts[key]) for key, chain in graphs.items()}

    def over(self, mesh: Mesh, rates: Rates) -> Distribution:
        """The step on a mesh."""
        rows = {row.name: row for row in self.plan.rows}
        lies = {chain.row.name: mesh.lies(chain.row, biased(chain.row, rows)) for chain in self.program.chains}
        shapes = list(dict.fromkeys(shape for shape, _ in lies.values()))
        places = {
            chain.row.name: (shapes.index(lies[chain.row.name][0]), held(chain.row.shape, *lies[chain.row.name]))
            for chain in self.program.chains
        }
        spreads = spreads_of(
            self.program, places, [mesh.ranks] * len(shapes), lambda chain: self.costs[id(chain.graph)], self.cuts
        )
        kinds = Kinds()
        there = [self._values(spread, chain, lies[spread.name], True) for spread, chain in self._pairs(spreads)]
        back = [self._values(spread, chain, lies[spread.name], False) for spread, chain in self._pairs(spreads)]
        exchanges = tuple(
            traffic(_of_team(values, spreads, team), mesh.ranks, rates.node, inward, kinds)
            for team in range(len(shapes)) for values, inward in ((there, True), (back, False))
        )  # fmt: skip
        placed = {
            spread.name: self._placed(spread, chain, sent, handed, lies[spread.name], kinds)
            for (spread, chain), sent, handed in zip(self._pairs(spreads), there, back, strict=True)
        }
        idle = (Placed(row.name, "none", None, 0, 0, 0, 0, "it gets no update", "") for row in self.program.idle)
        placed |= {row.name: row for row in idle}
        ordered = tuple(placed[row.name] for row in self.plan.rows)
        work = self._work(spreads, mesh, rates, kinds)
        return Distribution(self.plan, mesh, rates, ordered, exchanges, work, len(shapes))

    def _pairs(self, spreads: Sequence[Spread]) -> Iterable[tuple[Spread, Chain]]:
        return zip(spreads, self.program.chains, strict=True)

    def _values(self, spread: Spread, chain: Chain, lies: Any, inward: bool) -> list[Value]:
        if spread.owner is None:
            return []
        wide = state_dtype(chain.row)
        return [value_of(spread, one, lies, wide, {}) for one in (spread.there if inward else spread.back)]

    def _placed(
        self, spread: Spread, chain: Chain, there: list[Value], back: list[Value], lies: Any, kinds: Kinds
    ) -> Placed:
        key, owner = id(chain.graph), spread.owner
        placement = " ".join(f"{_shown(each)}/{size}" for size, each in zip(*lies, strict=True))
        if owner is None:
            return Placed(spread.name, "local", None, 0, 0, 0, 0, self.reasons[key], placement)
        got = sum(map(kinds.gathered, there))
        gave = sum(map(kinds.handed, back))
        return Placed(
            spread.name, "owner", owner, got, gave, self.flops[key], self.costs[key], self.reasons[key], placement
        )

    def _work(self, spreads: Sequence[Spread], mesh: Mesh, rates: Rates, kinds: Kinds) -> Work:
        """By rank. A shard's weights and states are read and written, gradients read. What crosses is made and packed
        on one side, unpacked and read on the other; a state or a weight that comes back is also written.
        """
        operations, costs, whole = [0] * mesh.ranks, [0] * mesh.ranks, [0] * mesh.ranks
        shards: dict[int, tuple[Held, int]] = {}
        alone = 0.0
        for spread, chain in self._pairs(spreads):
            row, key = chain.row, id(chain.graph)
            wide, own = state_dtype(row).itemsize, _itemsize(row.dtype)
            entry = 3 * own + 2 * wide * sum(kind == "like" for _, kind in spread.states)
            alone += row.numel * entry / rates.memory
            packed = wide * (3 * len(spread.there) + sum(1 if one.source is None else 3 for one in spread.back))
            crossing = 0 if spread.owner is None else packed
            before = shards.get(id(spread.held), (spread.held, 0))[1]
            shards[id(spread.held)] = (spread.held, before + entry + crossing)
            if spread.owner is not None:
                operations[spread.owner] += self.flops[key]
                costs[spread.owner] += self.costs[key]
                whole[spread.owner] += 3 * wide * (len(spread.there) + len(spread.back)) * row.numel
                alone += self.flops[key] / rates.flops
        moved = torch.tensor(whole, dtype=torch.int64)
        for own_held, entry in shards.values():
            moved += entry * kinds[own_held, torch.uint8].entries
        flops, loads = (torch.tensor(own, dtype=torch.float64) for own in (operations, costs))
        return Work(flops, moved, loads, alone)


def _of_team(values: Sequence[list[Value]], spreads: Sequence[Spread], team: int) -> Iterable[Value]:
    return (value for own, spread in zip(values, spreads, strict=True) if spread.team == team for value in own)


def _shown(placement: Any) -> str:
    """`S0`, `S0*` where another cut of that axis comes before, `R`."""
    if placement.is_replicate():
        return "R"
    return f"S{placement.dim}" + ("*" if hasattr(placement, "split_factor") else "")


def _itemsize(dtype: str) -> int:
    found = getattr(torch, dtype, None)
    return found.itemsize if isinstance(found, torch.dtype) else 4


def _reason(chain: Chain, cut: Cut) -> str:
    if cut.whole is None:
        return "every op sees each entry by itself"
    found = [str(getattr(node.target, "__name__", node.target)) for node in needing_whole(chain)]
    names = dict.fromkeys([name for name in found if name not in _VIEWS] or found)
    shape = "x".join(map(str, chain.row.shape))
    return f"{', '.join(names)} need{'s' if len(names) == 1 else ''} the whole {shape}"
