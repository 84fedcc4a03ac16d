"""A program over ranks: what works on shards, what needs whole tensors, and what works on shards again.

Each chain is cut where its ops stop being entry by entry. The first part averages a shard's gradients, the second runs
on the rank that owns the row, on whole tensors, and the third moves the shard's weights. A chain that is entry by entry
throughout is the third part alone: it needs nothing of other ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from normc.passes.rewrites.cutting import Cut, cut
from normc.passes.rewrites.dtypes import polar_dtype
from normc.passes.rewrites.windows import Places, load_of, number_of, windows_of
from normc.plans.geometry import norms
from normc.plans.row import Block, Row
from normc.recipe.recipe import Recipe
from normc.recipe.stages.build import chain_of
from normc.update.ops import matrices
from normc.update.ops.arithmetic import scale
from normc.update.program.program import Chain, Program, annotate
from normc.update.program.rates import Rates
from normc.update.runtime.crossing import Spread, windows_in
from normc.update.runtime.spread import Part, shared_out

Cost = Callable[[Chain], int]
Scheme = Literal["local", "apart", "everywhere", "owner"]


def cuts_of(program: Program) -> dict[int, Cut]:
    """The cut of every graph of a plain program, by the graph's id."""
    found: dict[int, Cut] = {}
    for chain in program.chains:
        if id(chain.graph) not in found:
            found[id(chain.graph)] = cut(annotate(chain), polar_dtype(program, chain), program.build.messages)
    return found


def schemes_of(
    program: Program, places: Places, cuts: Mapping[int, Cut], plain: Collection[str] = ()
) -> dict[str, Scheme]:
    """How each row is stepped. Rows that are `plain` are whole on every rank.

    local       its ops see each entry by itself, as many as a rank holds
    apart       shards hold whole blocks, or whole vectors of a norm of vectors: each rank steps what it has
    everywhere  each rank steps all of a plain row, whose whole part keeps states: these would have to cross
    owner       one rank steps it whole
    """
    found: dict[str, Scheme] = {}
    known: dict[tuple[int, int], bool] = {}
    for chain in program.chains:
        row, own, held = chain.row, cuts[id(chain.graph)], places[chain.row.name][1]
        key = (id(chain.graph), id(held))
        if own.whole is None:
            found[row.name] = "local"
        elif row.name in plain:
            found[row.name] = "everywhere" if any(one.source is not None for one in own.back) else "owner"
        else:
            if key not in known:
                known[key] = _apart(row, own) and all(narrowed(row, part) is not None for part in set(held.parts))
            found[row.name] = "apart" if known[key] else "owner"
    return found


def spreads_of(
    program: Program,
    places: Places,
    ranks: Sequence[int],
    cost: Cost,
    cuts: Mapping[int, Cut],
    schemes: Mapping[str, Scheme],
    rates: Rates | None = None,
) -> list[Spread]:
    """How each row is stepped, with its owner and its window: the same on every rank. `ranks` are how many each team
    has; `rates` say how fast messages go beside products, None that they don't.
    """
    owners: dict[str, int] = {}
    windows: dict[str, int] = {}
    costs: dict[int, int] = {}
    for team, number in enumerate(ranks):
        own = [chain for chain in program.chains
               if places[chain.row.name][0] == team and schemes[chain.row.name] == "owner"]  # fmt: skip
        for chain in own:
            if id(chain.graph) not in costs:
                costs[id(chain.graph)] = cost(chain)
        each = [costs[id(chain.graph)] for chain in own]
        chosen = shared_out(each, number)
        owners |= zip((chain.row.name for chain in own), chosen, strict=True)
        several = number_of(load_of(own, cuts, places, each, chosen, number), rates) if own else 1
        windows |= zip((chain.row.name for chain in own), windows_of(each, chosen, several), strict=True)
    spreads = []
    for chain in program.chains:
        (team, held), own_cut, name = places[chain.row.name], cuts[id(chain.graph)], chain.row.name
        if schemes[name] in ("apart", "everywhere"):
            spreads.append(Spread(name, held, team, None, states=chain.states))
            continue
        more = (own_cut.there, own_cut.back, own_cut.across, own_cut.states)
        spreads.append(Spread(name, held, team, owners.get(name), *more, windows.get(name, 0)))
    return spreads


def distribute(
    program: Program,
    recipe: Recipe,
    places: Places,
    teams: Sequence[tuple[int, int]],
    cost: Cost,
    plain: Collection[str] = (),
    rates: Rates | None = None,
) -> tuple[list[Spread], Parts]:
    """Cut a plain program over ranks: how each row is stepped, and what this rank runs.

    `places` says of each row over which team it lies, and who holds what; `teams` are (ranks, this rank). `cost` is
    what the whole part of a chain takes: owners get about the same. Rows that are `plain` are whole on every rank.
    `rates` are as for `spreads_of`.
    """
    cuts = cuts_of(program)
    schemes = schemes_of(program, places, cuts, plain)
    spreads = spreads_of(program, places, [ranks for ranks, _ in teams], cost, cuts, schemes, rates)
    before: list[Chain] = []
    after: list[Chain] = []
    whole: list[list[Chain]] = [[] for _ in range(windows_in(spreads))]
    for chain, spread in zip(program.chains, spreads, strict=True):
        row, own, rank = chain.row, cuts[id(chain.graph)], teams[spread.team][1]
        pieces, shard = (own.before, own.whole, own.after), _shard(row, spread.held.local(rank))
        if schemes[row.name] == "everywhere":
            pieces, shard = (None, None, chain.graph), row
        elif schemes[row.name] == "apart":
            narrow = narrowed(row, spread.held.parts[rank])
            assert narrow is not None
            pieces, shard = (None, None, chain_of(narrow, recipe.stages_of(row)) if narrow.numel else None), narrow
        mine = row if spread.owner == rank else None
        parts = (before, whole[spread.window] if spread.owner is not None else [], after)
        for piece, part, of in zip(pieces, parts, (shard, mine, shard), strict=True):
            if piece is not None and of is not None and of.numel:
                part.append(Chain((of,), piece, chain.group))
    made = [replace(program, chains=tuple(part), idle=(), decisions=()) for part in (before, *whole, after)]
    return spreads, Parts(made[0], tuple(made[1:-1]), made[-1])


@dataclass(frozen=True, slots=True)
class Parts:
    """What a rank runs: on its shards, on what it owns, a window after another, and on its shards again."""

    before: Program
    whole: tuple[Program, ...]
    after: Program


def _shard(row: Row, shape: Sequence[int]) -> Row:
    """A row as a rank sees its shard: entries, and nothing of what they are."""
    return replace(row, shape=tuple(shape), in_axes=(), out_axes=(), block_axes=(), kernel_axes=(), blocks=())


def _apart(row: Row, own: Cut) -> bool:
    """Whether a row's whole part is its norm's unit step alone, and keeps nothing."""
    known = {matrices.polar, matrices.fold, matrices.unfold, matrices.take, matrices.place, scale, norms[row.norm].lmo}
    calls = {node.target for node in own.whole.nodes if node.op == "call_function"} if own.whole is not None else set()
    return calls <= known and all(one.source is None for one in own.back)


def narrowed(row: Row, part: Part) -> Row | None:
    """A row that is this part of another; None where it is cut through what its norm sees at once."""
    vectors = {"columns": row.in_axes, "rows": row.out_axes}
    for axis, runs in enumerate(part):
        if runs == ((0, row.shape[axis]),):
            continue
        kept: tuple[int, ...] | None = None
        if row.blocks and all(block.axis == axis for block in row.blocks) and len(runs) <= 1:
            start, stop = runs[0] if runs else (0, 0)
            inside = [all(start <= a and b <= stop for a, b in block.spans) for block in row.blocks]
            outside = [all(b <= start or stop <= a for a, b in block.spans) for block in row.blocks]
            if not all(a or b for a, b in zip(inside, outside, strict=True)):
                return None
            kept = tuple(index for index, own in enumerate(inside) if own)
            blocks = tuple(_moved(row.blocks[index], -start) for index in kept)
            per_block = row.scale.per_block
            numbers = per_block if len(per_block) == 1 else tuple(per_block[index] for index in kept) or per_block[:1]
            row = replace(row, blocks=blocks, scale=replace(row.scale, per_block=numbers))
        elif axis not in (*row.block_axes, *vectors.get(norms[row.norm].shape, ())):
            return None
        size = sum(stop - start for start, stop in runs)
        row = replace(row, shape=(*row.shape[:axis], size, *row.shape[axis + 1 :]))
    return row


def _moved(block: Block, by: int) -> Block:
    return block._replace(spans=tuple((start + by, stop + by) for start, stop in block.spans))
