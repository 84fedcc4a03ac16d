"""Chains that one function updates: matrices of one size share a Newton-Schulz call, vectors a core, the rest lists."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode

from normc.plans.geometry import NORMED, norms
from normc.update.ops import arithmetic, kronecker
from normc.update.ops.matrices import flip, join, part, polar
from normc.update.program.program import (
    ROWWISE,
    Chain,
    Core,
    Decision,
    Family,
    Program,
    Split,
    annotate,
    evaluate,
    exits,
    split,
    state_dtype,
)
from normc.update.program.rewriting import rewrite

Size = tuple[int, int]

# Entries that are worked on at once where gradients hold the average: what saves a buffer shall not copy all of them.
AT_ONCE = 2**21


@rewrite("batch")
def batch(program: Program) -> Program:
    """Fill `families`: a partition of the chains, each with the merged graph of its core; without "batch", one a chain.

    Where the device says how many entries are worked on at once, matrices take turns of so many, at least a parameter.
    """
    together = "batch" not in program.build.without
    at_once = program.device.at_once if "turns" not in program.build.without else 0
    groups: list[tuple[tuple[object, ...], set[object], list[Chain]]] = []
    large = {chain.row.name: size for chain in program.chains if (size := _turn_size(chain, at_once))}
    for chain in program.chains:
        if chain.row.name in large:
            continue
        common, kinds = _keys(chain)
        joined = [group for group in groups if together and group[0] == common and group[1] & kinds]
        merged = (common, kinds.union(*(group[1] for group in joined)), [c for group in joined for c in group[2]])
        merged[2].append(chain)
        groups = [group for group in groups if group not in joined] + [merged]
    families: list[Family] = []
    decisions: list[Decision] = []
    for _, kinds, chains in groups:
        name = _name(chains, kinds, {family.name for family in families})
        core = merge(tuple(chains)) if split(chains[0].graph).core else None
        pieces = AT_ONCE if all(_sliceable(chain) for chain in chains) else 0
        families.append(Family(name, tuple(chains), core, pieces=pieces))
        number = sum(len(chain.rows) for chain in chains)
        saving = f"{len(chains) - 1} of each op" if len(chains) > 1 else ""
        what = f"{name}: {number} parameters in {len(chains)} stacks"
        decisions.append(Decision("batch", what, _why(kinds, chains), saving))
    for chain in program.chains:
        why = "gradients hold the average" if _holds_gradient(chain) else "their stacks stay in memory that was in use"
        size = large.get(chain.row.name, 0)
        for family in _turns(chain, size, {family.name for family in families}) if size else ():
            families.append(family)
            turns = [family.chains[0].rows, *family.again]
            what = f"{family.name}: {sum(map(len, turns))} parameters in {len(turns)} turns"
            decisions.append(Decision("batch", what, why, "copies of all but one turn's"))
    return replace(program, families=tuple(families), decisions=program.decisions + tuple(decisions))


def _holds_gradient(chain: Chain) -> bool:
    return any(kind == "grad" for _, kind in chain.states)


def _turn_size(chain: Chain, at_once: int) -> int:
    """Entries of one turn; 0 for a chain that takes none."""
    matrices = any(node.target is polar for node in chain.graph.nodes)
    size = AT_ONCE if _holds_gradient(chain) and split(chain.graph).core else at_once if matrices else 0
    return size if len(chain.rows) > 1 and chain.row.numel * len(chain.rows) > size else 0


def _sliceable(chain: Chain) -> bool:
    """Whether parameters may be updated piece by piece, and are worth it: every op works entry by entry."""
    entrywise = {norms[name].lmo for name in norms if norms[name].shape == "entries"}
    calls = [node.target for node in chain.graph.nodes if node.op == "call_function"]
    alone = all(op in entrywise or getattr(op, "__module__", "") == arithmetic.__name__ for op in calls)
    return alone and [kind for _, kind in chain.states] == ["grad"]


def _turns(chain: Chain, entries: int, taken: set[str]) -> list[Family]:
    """A chain's rows a few at a time: one function for all turns, or for all that have the same numbers."""
    size = max(entries // chain.row.numel, 1)
    found: dict[tuple[object, ...], list[Chain]] = {}
    for start in range(0, len(chain.rows), size):
        turn = _cut(chain, start, min(start + size, len(chain.rows)))
        key = (len(turn.rows), *(f"{node.target}{node.args}{node.kwargs}" for node in turn.graph.nodes))
        found.setdefault(key, []).append(turn)
    families: list[Family] = []
    for alike in found.values():
        name = _name(alike[:1], set(polar_sizes(alike[0].graph)) or {"vectors"}, taken | {f.name for f in families})
        again = tuple(turn.rows for turn in alike[1:])
        families.append(Family(name, (alike[0],), merge((alike[0],)), again))
    return families


def _cut(chain: Chain, start: int, stop: int) -> Chain:
    """Some of a chain's rows, with their own rowwise numbers."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(chain.graph, {}))
    for node in graph.nodes:
        own = {name: value for name, value in node.kwargs.items() if name in ROWWISE and isinstance(value, tuple)}
        numbers = {name: value[start:stop] for name, value in own.items()}
        alike = {name: value[0] if len(set(value)) == 1 else value for name, value in numbers.items()}
        node.kwargs = {**node.kwargs, **alike}
    return annotate(Chain(chain.rows[start:stop], graph, chain.group))


def polar_sizes(graph: fx.Graph) -> set[Size]:
    """(short, long) side of every matrix that Newton-Schulz sees in a graph with values."""
    shapes = [node.meta["val"].shape for node in graph.nodes if node.target is polar]
    return {(min(shape[-2:]), max(shape[-2:])) for shape in shapes}


def _keys(chain: Chain) -> tuple[tuple[object, ...], set[object]]:
    """What has to be equal, and what has to overlap, for two chains to share a function."""
    parts = split(chain.graph)
    lists = tuple(
        f"{node.name} = {node.target}{[_outer(arg, parts) for arg in node.args]}{_alike(node)}"
        for node in (*parts.before, *parts.after)
    )
    dtype = state_dtype(chain.row)
    given = tuple(sorted(exits(chain.graph).values()))
    common = (chain.group, dtype, chain.row.frozen, bool(parts.core), lists, given, chain.states)
    sizes: set[object] = set(polar_sizes(chain.graph))
    return common, sizes or {"lists" if not parts.core else "vectors"}


def _alike(node: fx.Node) -> dict[str, object]:
    """A call's keyword arguments, of the rowwise ones the names alone."""
    return {name: "" if name in ROWWISE else value for name, value in node.kwargs.items()}


def _outer(argument: object, parts: Split) -> str:
    return "core" if argument in parts.core else str(argument)


def _why(kinds: set[object], chains: list[Chain]) -> str:
    sizes = sorted(kind for kind in kinds if isinstance(kind, tuple))
    if sizes:
        return "same short and long side " + ", ".join(f"{short}x{long}" for short, long in sizes)
    if "lists" in kinds:
        return "same elementwise ops"
    if any(node.target is kronecker.rotate for chain in chains for node in chain.graph.nodes):
        return "same number of factors: one compiled function for what they rotate"
    if any(norms[chain.row.norm].shape in ("matrix", "slices") for chain in chains):
        return "same ops around it: one compiled function for all sizes"
    return "small: one compiled function for all norms of vectors"


def _name(chains: list[Chain], kinds: set[object], taken: set[str]) -> str:
    """An identifier of [a-z0-9_] from the plan's own words, never from a parameter's name, and never an op's name."""
    first = chains[0].row
    rules = sorted({chain.row.norm if chain.row.rule in NORMED else chain.row.rule for chain in chains})
    sizes = sorted(kind for kind in kinds if isinstance(kind, tuple))
    roles = sorted({chain.row.role for chain in chains})
    detail = [f"{short}x{long}" for short, long in sizes[:3]] or (
        roles if len(roles) == 1 else ["mixed"] if len(rules) == 1 else []
    )
    words = [*(rules if len(rules) == 1 else ["vectors"]), *detail, *(["frozen"] if first.frozen else [])]
    base = re.sub(r"[^a-z0-9]+", "_", "_".join(words).lower())
    name, index = base, 2
    while name in taken:
        name, index = f"{base}_{index}", index + 1
    return name


def merge(chains: tuple[Chain, ...]) -> Core:
    """One graph for the cores of several chains; their `polar` calls of one size and dtype become one call."""
    graph = fx.Graph()
    values: dict[tuple[int, fx.Node], fx.Node] = {}
    waiting: list[tuple[int, fx.Node]] = []
    inputs: list[tuple[int, fx.Node]] = []
    outputs: list[tuple[int, fx.Node]] = []
    for index, chain in enumerate(chains):
        core = split(chain.graph).core
        waiting += [(index, node) for node in core]
        for source in dict.fromkeys(source for node in core for source in node.all_input_nodes if source not in core):
            inputs.append((index, source))
            values[index, source] = graph.placeholder(f"x{len(inputs) - 1}")
        given = {places: node for node, places in exits(chain.graph).items()}
        outputs += [(index, given[places]) for places in exits(chains[0].graph).values()]
    while waiting:
        waiting = _copy(graph, waiting, values)
        ready = [(i, node) for i, node in waiting if all((i, source) in values for source in node.all_input_nodes)]
        _share(graph, ready, values)
        waiting = [key for key in waiting if key not in values]
    graph.output(tuple(values[key] for key in outputs))
    graph.lint()
    with FakeTensorMode():
        fakes = {values[key].name: _like(key[1]) for key in inputs}
        evaluate(graph, fakes, remember=True)
    return Core(graph, tuple(inputs), tuple(outputs))


def _like(node: fx.Node) -> object:
    value = node.meta["val"]
    return value if isinstance(value, float) else torch.empty(value.shape, dtype=value.dtype)


def _copy(
    graph: fx.Graph, waiting: list[tuple[int, fx.Node]], values: dict[tuple[int, fx.Node], fx.Node]
) -> list[tuple[int, fx.Node]]:
    """Copy what needs no value that is still missing, up to the next `polar`; the rest waits."""
    left = []
    for index, node in waiting:
        ready = all((index, source) in values for source in node.all_input_nodes)
        if not ready or node.target is polar:
            left.append((index, node))
            continue
        values[index, node] = graph.node_copy(node, lambda source, index=index: values[index, source])  # type: ignore[misc]  # binds now
    return left


def _share(graph: fx.Graph, ready: list[tuple[int, fx.Node]], values: dict[tuple[int, fx.Node], fx.Node]) -> None:
    """One `polar` for all of one size: short side first, joined, and taken apart again."""
    groups: dict[object, list[tuple[int, fx.Node]]] = {}
    for index, node in ready:
        sides = node.meta["val"].shape[-2:]
        groups.setdefault((min(sides), max(sides), repr(node.kwargs)), []).append((index, node))
    for members in groups.values():
        nodes = [node for _, node in members]
        wide = [node.meta["val"].shape[-2] <= node.meta["val"].shape[-1] for node in nodes]
        sources = [values[index, node.all_input_nodes[0]] for index, node in members]
        sources = [x if flat else _call(graph, "x", flip, x) for x, flat in zip(sources, wide, strict=True)]
        joined = _call(graph, "x", join, sources) if len(sources) > 1 else sources[0]
        whole = _call(graph, "u", polar, joined, **nodes[0].kwargs)
        for place, (key, flat) in enumerate(zip(members, wide, strict=True)):
            own = _call(graph, "u", part, whole, sources, place) if len(members) > 1 else whole
            values[key] = own if flat else _call(graph, "u", flip, own)


def _call(graph: fx.Graph, name: str, op: Callable[..., object], *args: object, **kwargs: object) -> fx.Node:
    return graph.create_node("call_function", op, args, kwargs, name)  # type: ignore[arg-type]  # fx's Argument
