"""Every dimension of a traced graph in atoms: a walk that unites what meets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from normc.nodes import op_name
from normc.passes.resize.sizes import Dim, constant, fresh, leaves, part, size_of, summed, unite, viewed
from normc.passes.resize.ties import Question, Slot, Ties, question, size_at, ties

Dims = tuple[Dim, ...]


@dataclass(slots=True)
class Space:
    """Dimensions of every node (a list of them where it yields several tensors), and what its literal sizes are.

    literals   by node: each literal size in the call, as `ties.question` numbers them
    starts     by node: what lies before a slice
    """

    of: dict[fx.Node, Dims | list[Dims]] = field(default_factory=dict)
    literals: dict[fx.Node, tuple[Dim, ...]] = field(default_factory=dict)
    starts: dict[fx.Node, Dim] = field(default_factory=dict)

    def one(self, node: Any) -> Dims:
        """Dimensions of a node's (first) tensor."""
        known = self.of.get(node, ()) if isinstance(node, fx.Node) else ()
        return known if isinstance(known, tuple) else known[0] if known else ()


def shapes_of(node: fx.Node) -> list[tuple[int, ...]]:
    """Shapes of a node's results."""
    val = node.meta.get("val")
    items = val if isinstance(val, (tuple, list)) else (val,)
    return [tuple(item.shape) if isinstance(item, Tensor) else () for item in items]


def walked(graph: fx.Graph) -> Space:
    """One walk in the graph's order."""
    space = Space()
    for node in graph.nodes:
        if node.op == "output":
            continue
        shapes = shapes_of(node)
        if node.op != "call_function" or not node.all_input_nodes:
            made = [tuple(fresh(size, data="input" in node.meta) for size in shape) for shape in shapes]
        else:
            name = op_name(node).rsplit(".", 1)[-1].rstrip("_")
            rule = _RULES.get(name, _asked)
            made = rule(space, node, shapes)
            if [tuple(map(size_of, dims)) for dims in made] != shapes:
                made = [tuple(map(fresh, shape)) for shape in shapes]
        several = isinstance(node.meta.get("val"), (tuple, list))
        space.of[node] = made if several else made[0]
    return space


Made = list[Dims]


def _asked(space: Space, node: fx.Node, shapes: list[tuple[int, ...]]) -> Made:
    """Any op: as it answers itself."""
    try:
        asked, operands = question(node)
    except LookupError:
        return _like(space, node, shapes)
    found = ties(asked)
    if found is None or [tuple(map(len, (shape,))) for shape in found.results] != [(len(s),) for s in shapes]:
        return _like(space, node, shapes)
    known = [atom for operand in operands for dim in space.one(operand) for atom in leaves(dim)]
    raw = bool(known) and all(atom.data for atom in known)
    literals = {
        slot: fresh(size_at(asked, slot), data=raw) for group in found.groups for slot in group if slot.operand < 0
    }

    def at(slot: Slot) -> Dim:
        return literals[slot] if slot.operand < 0 else space.one(operands[slot.operand])[slot.place]

    for group in found.groups:
        _tie(asked, group, at)
    numbered = [literals.get(Slot(-1, i), fresh(size, fixed=True)) for i, size in enumerate(asked.literals)]
    space.literals[node] = tuple(numbered)
    return [
        tuple(_result(asked, found, at, (i, d), size) for d, size in enumerate(shape)) for i, shape in enumerate(shapes)
    ]


def _tie(asked: Question, group: tuple[Slot, ...], at: Callable[[Slot], Dim]) -> None:
    least = min(group, key=lambda slot: (size_at(asked, slot), slot.operand < 0))
    for slot in group:
        times = size_at(asked, slot) // size_at(asked, least)
        if slot != least:
            unite(at(slot), (*fresh(times, fixed=True), *at(least)))


def _result(asked: Question, found: Ties, at: Callable[[Slot], Dim], place: tuple[int, int], size: int) -> Dim:
    """A result's dimension: the product of the groups that it grows with."""
    numbers = found.results[place[0]][place[1]]
    if size == 1:
        return ()
    if not numbers:
        return fresh(size, fixed=True)
    parts = [at(min(found.groups[n], key=lambda slot: (abs(size_at(asked, slot) - size), slot.operand < 0)))
             for n in numbers]  # fmt: skip
    if place in found.odd:
        return fresh(size, all(constant(dim) for dim in parts), data=True)
    if op_name_of(asked) in ("repeat", "tile"):
        parts.reverse()
    product = tuple(atom for dim in parts for atom in dim)
    whole = size_of(product)
    if whole == size:
        return product
    if size % whole == 0:
        return (*product, *fresh(size // whole, fixed=True))
    if whole % size == 0 and len(parts) == 1:
        share = fresh(size)
        unite(product, (*fresh(whole // size, fixed=True), *share))
        return share
    return fresh(size)


def op_name_of(asked: Question) -> str:
    """The asked op's plain name."""
    return str(asked.target.overloadpacket.__name__)


def _like(space: Space, node: fx.Node, shapes: list[tuple[int, ...]]) -> Made:
    """An op that can't be asked: a result's dimension is that of an operand with as many, at the same place."""
    made = []
    for shape in shapes:
        dims = [fresh(size) for size in shape]
        for source in node.all_input_nodes:
            own = space.one(source)
            if len(own) == len(shape):
                dims = [a if size_of(a) == n else b for a, b, n in zip(own, dims, shape, strict=True)]
        made.append(tuple(dims))
    return made


def _view(space: Space, node: fx.Node, shapes: list[tuple[int, ...]]) -> Made:
    return [tuple(viewed(space.one(node.args[0]), shapes[0]))]


def _along(node: fx.Node, place: int, rank: int) -> int:
    given: Any = node.args[place] if len(node.args) > place else node.kwargs.get("dim", 0)
    return int(given) % rank if rank else 0


def _split(space: Space, node: fx.Node, shapes: list[tuple[int, ...]]) -> Made:
    dims = space.one(node.args[0])
    name = op_name(node).rsplit(".", 1)[-1]
    along = _along(node, 1 if name == "unbind" else 2, len(dims))
    made = []
    start = 0
    for shape in shapes:
        size = 1 if name == "unbind" else shape[along]
        middle = () if name == "unbind" else (part(dims[along], start, size),)
        if name == "unbind":
            part(dims[along], start, 1)
        made.append((*dims[:along], *middle, *dims[along + 1 :]))
        start += size
    return made


def _slice(space: Space, node: fx.Node, shapes: list[tuple[int, ...]]) -> Made:
    dims = space.one(node.args[0])
    along = _along(node, 1, len(dims))
    given = [*node.args[2:], None, None, None]
    start: Any = given[0] if given[0] is not None else node.kwargs.get("start") or 0
    step: Any = given[2] if given[2] is not None else node.kwargs.get("step", 1)
    whole, size = size_of(dims[along]), shapes[0][along]
    if op_name(node).endswith("select"):
        start, size, step = given[0], 1, 1
    if op_name(node).endswith("narrow"):
        start, step = given[0], 1
    if not isinstance(start, int) or not isinstance(step, int) or whole == 0:
        return _like(space, node, shapes)
    start = min(max(start + whole if start < 0 else start, 0), whole)
    taken = part(dims[along], start, size, step)
    if 0 < start < whole and step == 1:
        space.starts[node] = part(dims[along], 0, start)
    return [(*dims[:along], taken, *dims[along + 1 :])]


def _select(space: Space, node: fx.Node, shapes: list[tuple[int, ...]]) -> Made:
    dims = space.one(node.args[0])
    along = _along(node, 1, len(dims))
    where: Any = node.args[2]
    if isinstance(where, int) and size_of(dims[along]) > 1:
        part(dims[along], where % size_of(dims[along]), 1)
    return [(*dims[:along], *dims[along + 1 :])]


def _cat(space: Space, node: fx.Node, shapes: list[tuple[int, ...]]) -> Made:
    given: Any = node.args[0]
    nodes = [item for item in given if isinstance(item, fx.Node) and len(space.one(item)) == len(shapes[0])]
    along = _along(node, 1, len(shapes[0]))
    parts = [space.one(item) for item in nodes if size_of(space.one(item)[along])]
    for other in parts[1:]:
        for place, (a, b) in enumerate(zip(parts[0], other, strict=True)):
            if place != along:
                unite(a, b)
    return [(*parts[0][:along], summed([dims[along] for dims in parts]), *parts[0][along + 1 :])]


def _index(space: Space, node: fx.Node, shapes: list[tuple[int, ...]]) -> Made:
    """Entries at known places are told apart: their dimension can't grow."""
    dims, places = space.one(node.args[0]), node.args[1]
    for along, place in enumerate(places if isinstance(places, (list, tuple)) else ()):
        known = place.meta.get("concrete") if isinstance(place, fx.Node) else None
        if isinstance(known, Tensor) and known.dtype == torch.int64 and 0 < known.numel() <= _FEW and dims[along]:
            for entry in known.flatten().tolist():
                part(dims[along], entry % size_of(dims[along]), 1)
    return _asked(space, node, shapes)


def _getitem(space: Space, node: fx.Node, shapes: list[tuple[int, ...]]) -> Made:
    source, index = node.args
    known = space.of.get(source) if isinstance(source, fx.Node) else None
    if isinstance(known, list) and isinstance(index, int) and index < len(known):
        return [known[index]]
    return _like(space, node, shapes)


def _first(space: Space, node: fx.Node, shapes: list[tuple[int, ...]]) -> Made:
    return [space.one(node.args[0])]


_FEW = 8
Rule = Callable[[Space, fx.Node, list[tuple[int, ...]]], Made]
_RULES: dict[str, Rule] = {
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "flatten", "unflatten", "view_as", "reshape_as", "ravel",
                     "_reshape_alias", "view_copy"), _view),
    **dict.fromkeys(("split", "split_with_sizes", "chunk", "unbind", "tensor_split", "unsafe_chunk", "unsafe_split"),
                    _split),
    "slice": _slice, "narrow": _slice, "select": _select, "getitem": _getitem, "after_write": _first,
    "index": _index, "cat": _cat, "concat": _cat, "concatenate": _cat,
}  # fmt: skip
VIEWS = frozenset(name for name, rule in _RULES.items() if rule is _view)
SPLITS = frozenset(name for name, rule in _RULES.items() if rule is _split)
