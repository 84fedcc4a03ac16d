"""Dimensions by name: which sizes of a model's parameters are one, what each is called, and what it follows.

The residual stream is `d_model`; what attention keeps apart are heads; what is looked up is the vocabulary. A hidden
size inside a branch is `d_ff`. Names follow from where a size stands in the graph, never from a parameter's name; sizes
at the same place of repeated blocks are one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import networkx as nx

from normc.model.facts import Facts
from normc.model.ops.value import Value, is_feature
from normc.model.trace.graph import ModelGraph
from normc.passes.analyses.bind import Binding
from normc.passes.analyses.flow import Flow
from normc.passes.analyses.layout import Layouts
from normc.passes.analyses.role import Roles
from normc.passes.resize.repeat import Stack
from normc.passes.resize.sizes import Atom, Dim, constant, expanded, leaves, size_of
from normc.passes.resize.walk import Space

# How a size that wasn't asked for behaves: it keeps its ratio to d_model, or it stays.
FOLLOWS = ("d_model", "d_hidden", "n_head", "n_kv_head", "d_ff")


@dataclass(frozen=True, slots=True)
class Named:
    """A dimension: its size is that of `dim`; `atoms` are the atoms that change with it, alike in every block.

    `axes` are the parameter axes that it is, or is a factor of. `follows`: whether it keeps its ratio to the first.
    """

    name: str
    dim: Dim
    atoms: tuple[Atom, ...]
    axes: tuple[str, ...]
    follows: bool

    @property
    def size(self) -> int:
        """As traced."""
        return size_of(self.dim)


def dimensions(model: ModelGraph, space: Space, facts: Facts, repeated: Iterable[Stack]) -> tuple[Named, ...]:
    """All named sizes, those that others follow first."""
    places, owners = _places(model, space, repeated)
    kinds = _kinds(model, space, facts)
    counted = {atom for atom, kind in kinds.items() if kind == "n_block"}
    inner = _inner((dim for p in model.parameters for dim in space.one(model.nodes[p.name])), counted)
    streams = [stream for stream in _streams(space, facts) if any(atom in places for atom in leaves(stream))]
    streams.sort(key=lambda stream: (_data(stream), -max(len(places.get(atom, ())) for atom in leaves(stream))))
    groups = _groups(places)
    found: list[Named] = []
    used: set[Atom] = set()
    for number, stream in enumerate(streams):
        own = _outermost(stream, inner)
        used |= own
        axes = {_shown(place) for atom in own for place in places.get(atom, ())}
        name = "d_model" if not number else f"d_model_{number + 1}"
        found.append(Named(name, stream, tuple(own), tuple(sorted(axes)), not number or not _data(stream)))
    counts: dict[str, int] = {}
    for group in groups:
        atoms = [atom for atom in group if atom not in used]
        if not atoms or all(atom.fixed for atom in atoms):
            continue
        said = {kinds.get(atom, "") for atom in atoms}
        kind = next((kinds[atom] for atom in atoms if atom in kinds), "")
        if not kind or said == {"", "d_output"}:
            kind = "d_head" if atoms[0] in inner else _hidden(owners[atoms[0]], facts)
        if kind == "window":
            continue
        counts[kind] = counts.get(kind, 0) + 1
        name = kind if counts[kind] == 1 else f"{kind}_{counts[kind]}"
        axes = {_shown(place) for atom in atoms for place in places[atom]}
        found.append(Named(name, (atoms[0],), tuple(atoms), tuple(sorted(axes)), kind in FOLLOWS))
    return tuple(sorted(found, key=lambda named: not (named.follows and named is first_of(found))))


def first_of(found: Iterable[Named]) -> Named | None:
    """The dimension that others follow."""
    return next((named for named in found if named.follows), None)


Place = tuple[str, ...]


def _places(
    model: ModelGraph, space: Space, repeated: Iterable[Stack]
) -> tuple[dict[Atom, list[Place]], dict[Atom, str]]:
    """Where each plain atom stands: the parameter, a repeated block's number left out, the axis and the place in it;
    and the first parameter that it stands in.
    """
    found: dict[Atom, list[Place]] = {}
    owners: dict[Atom, str] = {}
    repeated = list(repeated)
    for parameter in model.parameters:
        family = parameter.name
        for stack in repeated:
            if stack.block(parameter.name) in stack.repeating:
                family = stack.renamed(parameter.name, "*")
        for axis, dim in enumerate(space.one(model.nodes[parameter.name])):
            for at, atom in enumerate(leaves(dim)):
                found.setdefault(atom, []).append((f"{family}[{axis}]", str(at)))
                owners.setdefault(atom, parameter.name)
    return found, owners


def _groups(places: Mapping[Atom, list[Place]]) -> list[list[Atom]]:
    """Atoms of one size that stand at one place of repeated blocks, together, in the order of their first places."""
    web = nx.Graph()
    for atom, where in places.items():
        web.add_edges_from((atom, (place, atom.size)) for place in where)
    order = {atom: i for i, atom in enumerate(places)}
    groups = [
        sorted((atom for atom in part if atom in order), key=order.__getitem__) for part in nx.connected_components(web)
    ]
    return sorted(groups, key=lambda group: order[group[0]])


def _shown(place: Place) -> str:
    return place[0]


def _inner(dims: Iterable[Dim], counted: set[Atom]) -> set[Atom]:
    """Atoms that are the inner part of some axis: a head's width, beside the number of heads."""
    found: set[Atom] = set()
    for dim in dims:
        _walk(dim, counted, found)
    return found


def _walk(dim: Dim, counted: set[Atom], found: set[Atom]) -> None:
    flat = [atom for atom in expanded(dim) if not constant((atom,)) and atom not in counted]
    for atom in flat[1:]:
        found.update(leaves((atom,)))
    for atom in flat[:1]:
        for term in atom.terms or ():
            _walk(term, counted, found)


def _outermost(dim: Dim, inner: set[Atom]) -> set[Atom]:
    """The atoms that change where the dimension does: the outer ones of its factors."""
    flat = [atom for atom in expanded(dim) if not constant((atom,))]
    first = next((atom for atom in flat if not set(leaves((atom,))) <= inner), flat[0] if flat else None)
    if first is None:
        return set()
    return {leaf for leaf in leaves((first,)) if not leaf.fixed}


def _data(dim: Dim) -> bool:
    """Whether a size comes from the inputs alone."""
    return all(atom.data for atom in leaves(dim))


def _streams(space: Space, facts: Facts) -> list[Dim]:
    """Feature dimensions of residual streams, in order."""
    found: list[Dim] = []
    seen: set[tuple[Atom, ...]] = set()
    for join in facts[Flow].joins:
        value, dims = facts[Binding].values.get(join.node), space.one(join.node)
        features = [is_feature(dim) for dim in value.dims] if isinstance(value, Value) else []
        at = max((i for i, feature in enumerate(features) if feature), default=len(dims) - 1)
        flat = expanded(dims[at]) if dims else ()
        if flat and flat not in seen and not constant(flat):
            seen.add(flat)
            found.append(flat)
    return found


def _kinds(model: ModelGraph, space: Space, facts: Facts) -> dict[Atom, str]:
    """What an atom is by where it stands, the strongest evidence first."""
    found: dict[Atom, str] = {}

    def say(dims: Iterable[Dim], kind: str) -> None:
        for dim in dims:
            for atom in leaves(dim):
                found.setdefault(atom, kind)

    for parameter in model.parameters:
        dims = space.one(model.nodes[parameter.name])
        for contact in facts[Binding].contacts[parameter.name]:
            stacked = [part for part in contact.parts if part.use == "block" and contact.kind != "convolve"]
            say((_factor(dims[part.axis], part.size, part.stride) for part in stacked), "n_block")
    for parameter in model.parameters:
        layout = facts[Layouts].of[parameter.name]
        dims = space.one(model.nodes[parameter.name])
        roles = {facts[Roles].of[parameter.name], *(use.role for use in facts[Roles].uses[parameter.name])}
        index = "vocab" if "embedding" in roles else "context"
        say((dims[i] for i in layout.where("index")), index)
        say((dims[i] for i in layout.where("kernel")), "window")
        say((dims[i] for i in layout.where("block") if not layout.where("kernel")), "n_block")
        if facts[Roles].of[parameter.name] == "router":
            say((dims[i] for i in layout.where("out")), "n_block")
        if facts[Roles].of[parameter.name] == "output":
            say((dims[i] for i in layout.where("out")), "vocab" if "embedding" in roles else "d_output")
        say([(atom,) for dim in dims for atom in leaves(dim) if atom.data], "d_input")
    for heads in _heads(space, facts):
        flat = [atom for atom in leaves(heads) if not atom.fixed]
        say([(atom,) for atom in flat[:1]], "n_head" if len(flat) == 1 else "n_kv_head")
        say([(atom,) for atom in flat[1:]], "n_group")
    return found


def _factor(dim: Dim, size: int, stride: int) -> Dim:
    """The factor of that size and stride, if there is one."""
    flat = expanded(dim)
    for at, atom in enumerate(flat):
        if atom.size == size and size_of(flat[at + 1 :]) == stride:
            return (atom,)
    return ()


def _heads(space: Space, facts: Facts) -> Iterator[Dim]:
    """What products of two activations keep apart, products with more factors first."""
    found: list[Dim] = []
    for separation in facts[Binding].separations:
        for node in separation.node.all_input_nodes:
            dims = space.one(node)
            if len(dims) == len(separation.value.dims):
                found += [dims[place] for place in separation.places if place]
    yield from sorted(found, key=lambda dim: -len(expanded(dim)))


def _hidden(owner: str, facts: Facts) -> str:
    """A size between two weights: inside a residual branch or not."""
    principal = facts[Layouts].of[owner].principal
    return "d_ff" if principal is not None and facts[Flow].joined(principal.node) else "d_hidden"


def new_sizes(found: Iterable[Named], given: Mapping[str, int]) -> tuple[dict[Atom, int], list[str], str]:
    """Every atom's new size, notes, and what can't be (a message; "" if all can)."""
    found = list(found)
    sizes: dict[Atom, int] = {}
    for named in found:
        if named.name in given:
            for atom in named.atoms:
                scaled = atom.size * given[named.name]
                if scaled % named.size:
                    return {}, [], _nearest(named, [atom.size], given[named.name])
                sizes[atom] = scaled // named.size
    first = first_of(found)
    notes: list[str] = []
    if first is None or first.name not in given:
        return sizes, notes, ""
    new, old = given[first.name], first.size
    kept = [named for named in found if named.follows and named.name not in given]
    everything = [atom.size for named in kept for atom in named.atoms if atom not in sizes]
    for named in kept:
        for atom in named.atoms:
            if atom not in sizes:
                if atom.size * new % old:
                    return {}, [], _nearest(first, [*everything, *(a.size for a in first.atoms)], new, named)
                sizes[atom] = atom.size * new // old
    if kept and new != old:
        notes.append(f"{', '.join(named.name for named in kept)} keep their ratio to {first.name}")
    stays = [
        f"{named.name} {named.size}" for named in found if named.name.startswith("d_head") and named.name not in given
    ]
    if stays and new != old:
        notes.append(f"heads stay as wide as they are, their number changes: {', '.join(stays)}")
    return sizes, notes, ""


def _nearest(named: Named, sizes: Iterable[int], wanted: int, other: Named | None = None) -> str:
    """Which sizes of `named` leave all of `sizes` whole."""
    step = named.size // math.gcd(named.size, *sizes)
    below = wanted // step * step
    fits = [size for size in (below, below + step) if size > 0]
    what = f": {other.name}, {other.size} of {named.size} now, would be no whole number" if other is not None else ""
    return f"{named.name} can't be {wanted}{what}; the nearest that can are {' and '.join(map(str, fits))}"
