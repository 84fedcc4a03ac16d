"""How a plan's step is shared out over the ranks of a mesh, and what it takes there: no process and no device needed.

Schemes, owners and what crosses ranks are asked of what runs: `normc.passes.rewrites.distribute`
and `normc.update.runtime`. Times are predictions from counted operations and bytes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from normc.arguments import instance
from normc.passes.rewrites.cutting import Cut, needing_whole
from normc.passes.rewrites.distribute import Scheme, cuts_of, schemes_of, spreads_of
from normc.passes.rewrites.windows import beside
from normc.pipeline import uncut
from normc.plans.plan import NormPlan
from normc.plans.row import Row
from normc.tools.scaling.mesh import Lies, Mesh, biased, read_mesh
from normc.tools.scaling.result import Crossed, Placed, Work
from normc.tools.scaling.table import Distribution
from normc.tools.scaling.traffic import Kinds, traffic
from normc.update.program.build import build_of
from normc.update.program.program import Chain, Program, state_dtype
from normc.update.program.rates import Rates, rates_of
from normc.update.program.work import cost, flops
from normc.update.runtime.crossing import Spread, value_of, windows_in
from normc.update.runtime.spread import Held, Value, copied, held

_REASONS = {
    "apart": "its shards hold whole blocks, or whole vectors of its norm",
    "everywhere": "its step keeps states that would have to cross; each rank has all of it",
}
TARGET = "cuda:sm_90"  # what the rates that are assumed by default are of
_VIEWS = ("fold", "unfold", "take", "place", "see", "put")


def distribution(
    plan: NormPlan,
    mesh: str | Mesh,
    rates: Rates | Mapping[str, float] | None = None,
    *,
    target: str = TARGET,
    messages: torch.dtype | None = None,
) -> Distribution:
    """How a plan's step would be shared out over the ranks of a mesh, with bytes and predicted times.

    mesh   "fsdp=8", "dp=8", "hsdp=2x4" (the same as "dp=2,fsdp=4"), "fsdp=4,tp=2", "fsdp=64,ep=8" for experts: see
           `normc.tools.scaling.mesh.Mesh` for which cuts what. Ranks are numbered with tp fastest, then fsdp, then dp
    rates  assumed speeds: some of flops, memory, within, between, latency, message, node (`Rates`)
    target    where it would run, by which Newton-Schulz has 16 bits or not: "cuda:sm_90", "cpu:fp32"
    messages  as for normc.compile
    """
    instance("plan", plan, NormPlan, "give what normc.plan or normc.load returned")
    found = mesh if isinstance(mesh, Mesh) else read_mesh(mesh)
    return Distributed(plan, target, messages).over(found, rates_of(rates))


class Distributed:
    """A plan whose chains are cut: for several meshes, one after another."""

    def __init__(self, plan: NormPlan, target: str = TARGET, messages: torch.dtype | None = None) -> None:
        self.plan = plan
        self.program: Program = uncut(plan, build_of(target, messages=messages))
        self.cuts: dict[int, Cut] = cuts_of(self.program)
        graphs = {id(chain.graph): chain for chain in self.program.chains}
        self.flops = {key: flops(chain) for key, chain in graphs.items()}
        self.costs = {key: cost(chain) for key, chain in graphs.items()}
        self.reasons = {key: _reason(chain, self.cuts[key]) for key, chain in graphs.items()}

    def over(self, mesh: Mesh, rates: Rates) -> Distribution:
        """The step on a mesh."""
        chains = self.program.chains
        rows = {row.name: row for row in self.plan.rows}
        lies = {chain.row.name: mesh.lies(chain.row, biased(chain.row, rows)) for chain in chains}
        shapes = list(dict.fromkeys(None if own is None else own[0] for own in lies.values()))
        places = {row.name: _place(row, lies[row.name], shapes, mesh.ranks) for row in (chain.row for chain in chains)}
        plain = [name for name, own in lies.items() if own is None]
        schemes = schemes_of(self.program, places, self.cuts, plain)
        teams = [mesh.ranks] * len(shapes)
        if plain and "owner" not in schemes.values():
            teams = []  # copies that share nothing are stepped as in one process
        overlap = beside(self.program.device, rates)
        spreads = spreads_of(
            self.program, places, teams, lambda chain: self.costs[id(chain.graph)], self.cuts, schemes, overlap
        )
        kinds = Kinds()
        there = [self._values(spread, chain, lies[spread.name], True) for spread, chain in self._pairs(spreads)]
        back = [self._values(spread, chain, lies[spread.name], False) for spread, chain in self._pairs(spreads)]
        owning = sorted({(own.window, own.team) for own in spreads if own.owner is not None})
        crossed = tuple(
            tuple(
                Crossed(*(traffic(_within(values, spreads, team, window), mesh.ranks, rates.node, inward, kinds)
                          for values, inward in ((there, True), (back, False))))
                for own, team in owning if own == window
            )
            for window in range(windows_in(spreads))
        )  # fmt: skip
        placed = {
            chain.row.name: self._placed(chain, schemes[chain.row.name], lies[chain.row.name], spread.owner,
                                         sum(map(kinds.gathered, sent)), sum(map(kinds.handed, handed)))
            for (spread, chain), sent, handed in zip(self._pairs(spreads), there, back, strict=True)
        }  # fmt: skip
        idle = (Placed(row.name, "none", None, 0, 0, 0, 0, "it gets no update", "") for row in self.program.idle)
        placed |= {row.name: row for row in idle}
        ordered = tuple(placed[row.name] for row in self.plan.rows)
        work = self._work(spreads, schemes, mesh, rates, kinds)
        return Distribution(self.plan, mesh, rates, ordered, crossed, work, len(teams))

    def _pairs(self, spreads: Sequence[Spread]) -> Iterable[tuple[Spread, Chain]]:
        return zip(spreads, self.program.chains, strict=True)

    def _values(self, spread: Spread, chain: Chain, lies: Lies | None, inward: bool) -> list[Value]:
        if spread.owner is None:
            return []
        wide = state_dtype(chain.row)
        return [value_of(spread, one, lies, wide, {}) for one in (spread.there if inward else spread.back)]

    def _placed(
        self, chain: Chain, scheme: Scheme, lies: Lies | None, owner: int | None, got: int, gave: int
    ) -> Placed:
        key, name = id(chain.graph), chain.row.name
        pairs = () if lies is None else zip(*lies, strict=True)
        placement = " ".join(f"{_shown(each)}/{size}" for size, each in pairs) or "copied"
        reason = _REASONS.get(scheme) or self.reasons[key]
        own_cost = self.costs[key] if scheme == "owner" else 0
        return Placed(name, scheme, owner, got, gave, self.flops[key], own_cost, reason, placement)

    def _work(
        self, spreads: Sequence[Spread], schemes: Mapping[str, Scheme], mesh: Mesh, rates: Rates, kinds: Kinds
    ) -> Work:
        """By rank. A shard's weights and states are read and written, gradients read. What crosses is made and packed
        on one side, unpacked and read on the other; a state or a weight that comes back is also written.
        """
        operations, costs, moved = (torch.zeros(mesh.ranks, dtype=torch.float64) for _ in range(3))
        windows = torch.zeros(windows_in(spreads), mesh.ranks, dtype=torch.float64)
        # Of all that is held alike: bytes that are moved for an entry, and operations and cost of an entry.
        shards: dict[int, tuple[Held, list[float]]] = {}
        alone = 0.0
        for spread, chain in self._pairs(spreads):
            row, key, scheme = chain.row, id(chain.graph), schemes[chain.row.name]
            wide, own = state_dtype(row).itemsize, _itemsize(row.dtype)
            entry = 3 * own + 2 * wide * sum(kind == "like" for _, kind in spread.states)
            alone += row.numel * entry / rates.memory + self.flops[key] / rates.flops
            sums = shards.setdefault(id(spread.held), (spread.held, [0.0, 0.0, 0.0]))[1]
            sums[0] += entry
            if spread.owner is not None:
                sums[0] += wide * (3 * len(spread.there) + sum(1 if one.source is None else 3 for one in spread.back))
                operations[spread.owner] += self.flops[key]
                costs[spread.owner] += self.costs[key]
                passed = 3 * wide * (len(spread.there) + len(spread.back)) * row.numel
                moved[spread.owner] += passed
                windows[spread.window, spread.owner] += self.flops[key] / rates.flops + passed / rates.memory
            elif scheme in ("apart", "everywhere"):
                sums[1] += self.flops[key] / row.numel
                sums[2] += self.costs[key] / row.numel
        for own_held, sums in shards.values():
            entries = kinds[own_held, torch.uint8].entries.double()
            for total, each in zip((moved, operations, costs), sums, strict=True):
                total += each * entries
        return Work(operations, moved, costs, alone, windows)


def _place(row: Row, lies: Lies | None, shapes: Sequence[tuple[int, ...] | None], ranks: int) -> tuple[int, Held]:
    if lies is None:
        return shapes.index(None), _copied(row.shape, ranks)
    return shapes.index(lies[0]), held(row.shape, *lies)


_copied = functools.lru_cache(maxsize=4096)(copied)


def _within(values: Sequence[list[Value]], spreads: Sequence[Spread], team: int, window: int) -> Iterable[Value]:
    """Those of a team and a window."""
    for own, spread in zip(values, spreads, strict=True):
        if (spread.team, spread.window) == (team, window):
            yield from own


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
