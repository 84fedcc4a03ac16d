"""A program over ranks: what works on shards, what needs whole tensors, and what works on shards again.

Each chain is cut where its ops stop being entry by entry. The first part averages a shard's gradients, the second runs
on the rank that owns the row, on whole tensors, and the third moves the shard's weights. A chain that is entry by entry
throughout is the third part alone: it needs nothing of other ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from normc.passes.rewrites.cutting import Cut, cut
from normc.passes.rewrites.dtypes import polar_dtype
from normc.plans.geometry import norms
from normc.plans.row import Block, Row
from normc.recipe.recipe import Recipe
from normc.recipe.stages.build import chain_of
from normc.update.ops import matrices
from normc.update.ops.arithmetic import scale
from normc.update.program.program import Chain, Program, annotate
from normc.update.runtime.crossing import Spread
from normc.update.runtime.spread import Held, Part, shared_out

Places = Mapping[str, tuple[int, Held]]
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
) -> list[Spread]:
    """How each row is stepped, with its owner: the same on every rank. `ranks` are how many each team has."""
    owners: dict[str, int] = {}
    costs: dict[int, int] = {}
    for team, number in enumerate(ranks):
        own = [chain for chain in program.chains
               if places[chain.row.name][0] == team and schemes[chain.row.name] == "owner"]  # fmt: skip
        for chain in own:
            if id(chain.graph) not in costs:
                costs[id(chain.graph)] = cost(chain)
        chosen = shared_out([costs[id(chain.graph)] for chain in own], number)
        owners |= zip((chain.row.name for chain in own), chosen, strict=True)
    spreads = []
    for chain in program.chains:
        (team, held), own_cut, name = places[chain.row.name], cuts[id(chain.graph)], chain.row.name
        if schemes[name] in ("apart", "everywhere"):
            spreads.append(Spread(name, held, team, None, states=chain.states))
            continue
        more = (own_cut.there, own_cut.back, own_cut.across, own_cut.states)
        spreads.append(Spread(name, held, team, owners.get(name), *more))
    return spreads


def distribute(
    program: Program,
    recipe: Recipe,
    places: Places,
    teams: Sequence[tuple[int, int]],
    cost: Cost,
    plain: Collection[str] = (),
) -> tuple[list[Spread], tuple[Program, Program, Program]]:
    """Cut a plain program over ranks: how each row is stepped, and what this rank runs.

    `places` says of each row over which team it lies, and who holds what; `teams` are (ranks, this rank). `cost` is
    what the whole part of a chain takes: owners get about the same. Rows that are `plain` are whole on every rank.
    """
    cuts = cuts_of(program)
    schemes = schemes_of(program, places, cuts, plain)
    spreads = spreads_of(program, places, [ranks for ranks, _ in teams], cost, cuts, schemes)
    parts: tuple[list[Chain], list[Chain], list[Chain]] = ([], [], [])
    for chain, spread in zip(program.chains, spreads, strict=True):
        row, own, rank = chain.row, cuts[id(chain.graph)], teams[spread.team][1]
        pieces, shard = (own.before, own.whole, own.after), _shard(row, spread.held.local(rank))
        if schemes[row.name] == "everywhere":
            pieces, shard = (None, None, chain.graph), row
        elif schemes[row.name] == "apart":
            mine = narrowed(row, spread.held.parts[rank])
            assert mine is not None
            pieces, shard = (None, None, chain_of(mine, recipe.stages_of(row)) if mine.numel else None), mine
        for piece, part, of in zip(pieces, parts, (shard, row if spread.owner == rank else None, shard), strict=True):
            if piece is not None and of is not None and of.numel:
                part.append(Chain((of,), piece, chain.group))
    before, whole, after = (replace(program, chains=tuple(part), idle=(), decisions=()) for part in parts)
    return spreads, (before, whole, after)


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
