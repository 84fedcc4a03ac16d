"""The abstract value of a tensor: for every dimension, along which axes of which parameters it runs.

A dimension is a tuple of factors, outermost first (a view may have merged several axes into one dimension, or split
one). A factor's runs say where its entries lie: entry i of the run is entry start + i * stride of a parameter's axis.
What a select took from an axis is kept in `offsets`, so that a slice of a slice of a view still knows its place in the
parameter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from torch import fx

Spans = tuple[tuple[int, int], ...]
Kind = Literal["weight", "data", "constant"]

_MOST_SPANS = 1 << 15


class Axis(NamedTuple):
    """One axis of one parameter."""

    parameter: str
    number: int


Thread = tuple[Axis, str]


class Run(NamedTuple):
    """Entries `offset .. offset + size` of a factor lie at `start + i * stride` of `axis`.

    `strand` names one of several tensors that lie beside each other: a run adds up with runs of its own strand alone.
    With stride 0 the run only says where its strand lies. A strand of which the name starts with "!" is closed: its
    entries have come to their end, and only how they are kept apart further on is of interest.
    """

    axis: Axis
    start: int
    stride: int
    offset: int
    size: int
    strand: str = ""

    @property
    def thread(self) -> Thread:
        """The axis and the strand: what a run adds up with."""
        return self.axis, self.strand


@dataclass(frozen=True, slots=True)
class Factor:
    """A part of a dimension; `feature` if it is a contraction's output or a channel, no batch or place.

    `picked`: by constants or by what is computed. `repeated`: a weight is the same all along, for samples or places.
    """

    size: int
    runs: tuple[Run, ...] = ()
    feature: bool = False
    picked: Literal["", "index", "block"] = ""
    repeated: bool = False

    def whole(self) -> bool:
        """Whether every run covers the factor, so that it can be split."""
        return all(run.offset == 0 and run.size == self.size for run in self.runs)

    def cut(self, start: int, size: int, step: int = 1) -> Factor:
        """Entries start, start + step, ... (`size` of them)."""
        runs = []
        for run in self.runs:
            first = max(0, -(-(run.offset - start) // step))
            last = min(size, -(-(run.offset + run.size - start) // step))
            if last > first:
                place = run.start + (start + first * step - run.offset) * run.stride
                runs.append(Run(run.axis, place, run.stride * step, first, last - first, run.strand))
        return replace(self, size=size, runs=tuple(runs))


Dim = tuple[Factor, ...]


class Inner(NamedTuple):
    """A part of a weight's axis that is no dimension any more.

    "in", "out": a product of two weights, `bond`, has summed it: fan-in of the left one, fan-out of the right one.
    "block": a select took one of `size` stretches that lie `stride` apart: the axis holds a stack. "index": one of
    several places is left. "mixed": a sum or choice took a stack together. "pair": real and imaginary parts of numbers.
    """

    axis: Axis
    use: Literal["in", "out", "block", "mixed", "pair", "index"]
    size: int
    stride: int = 1
    bond: str = ""


class Made(NamedTuple):
    """What an activation would be as a weight, or a term of it that is.

    form      "built": by constants; "stack": chosen or mixed from several; "product", "sum": of a weight and an
              activation, entry by entry; "distance": how large such a sum's entries are
    weight    its runs tell where activations vary too: along axes that `source_axis` names
    origins   the nodes that began it
    data      the activation that was multiplied into it
    """

    form: Literal["built", "stack", "product", "sum", "distance"]
    weight: Value
    origins: frozenset[str]
    data: fx.Node | None = None


def source_axis(node: fx.Node, place: int) -> Axis:
    """The axis of an activation that was multiplied into a weight. No parameter has such a name."""
    return Axis(f" {node.name}", place)


def is_source(axis: Axis) -> bool:
    """Whether an axis is that of an activation in a weight."""
    return axis.parameter.startswith(" ")


@dataclass(frozen=True, slots=True)
class Value:
    """What is known about one tensor of the graph.

    kind        weight: made of parameters and constants alone; constant: of neither parameters nor inputs; else data
    offsets     where selects have fixed an axis
    summed      factors that a reduction has taken away: their entries are in the tensor still, each in all of it
    spread      axes whose entries are somewhere in the tensor, in an order that is no longer known
    touched     data: a weight was contracted or looked up on the way here
    via         weight: the nonlinear ops on the way here, with the parameter that went through each
    reduced     weight: parameters of which a sum, a mean or the like has left a statistic
    lost        weight: the op behind which the axes are no longer known ("" if they are)
    made        data: the weights that it is a sum of, should activations be contracted with it
    """

    kind: Kind
    dims: tuple[Dim, ...]
    parameters: frozenset[str] = frozenset()
    offsets: Mapping[Axis, int] = field(default_factory=dict)
    spread: Mapping[Axis, Spans] = field(default_factory=dict)
    inner: tuple[Inner, ...] = ()
    summed: Dim = ()
    touched: bool = False
    via: tuple[tuple[str, str], ...] = ()
    lost: str = ""
    made: tuple[Made, ...] = ()
    reduced: frozenset[str] = frozenset()

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the dimensions."""
        return tuple(dim_size(dim) for dim in self.dims)

    def axes(self, closed: bool = False) -> set[Axis]:
        """Every parameter axis that this tensor runs along; of an activation, also those it is one entry of."""
        runs = (run for dim in (*self.dims, self.summed) for factor in dim for run in factor.runs)
        along = {run.axis for run in runs if closed or not run.strand.startswith("!")} | set(self.spread)
        return along | set(self.offsets) if self.kind == "data" else along

    def origins(self, closed: bool = False) -> dict[Axis, Spans]:
        """For every axis, which of its entries this tensor is made of; those of closed strands if `closed`."""
        found: dict[Axis, list[tuple[int, int]]] = {axis: list(spans) for axis, spans in self.spread.items()}
        for (axis, strand), groups in self.threads().items():
            if (groups or self.kind == "data") and (closed or not strand.startswith("!")):
                start = 0 if strand else self.offsets.get(axis, 0)
                found.setdefault(axis, []).extend(sums(((start, start + 1),), groups))
        return {axis: merge(spans) for axis, spans in found.items()}

    def threads(self) -> dict[Thread, list[list[Run]]]:
        """Every axis and strand with its runs, a list for every factor that has some."""
        found: dict[Thread, list[list[Run]]] = {(axis, ""): [] for axis in self.offsets}
        for dim in (*self.dims, self.summed):
            for factor in dim:
                here: dict[Thread, list[Run]] = {}
                for run in factor.runs:
                    here.setdefault(run.thread, []).append(run)
                for thread, runs in here.items():
                    found.setdefault(thread, []).append(runs)
        return found

    def expanded(self) -> bool:
        """Whether a weight was repeated for every sample or place."""
        return any(factor.repeated for dim in self.dims for factor in dim)

    def spread_out(self, shape: tuple[int, ...], feature: bool = False) -> Value:
        """The same entries in a shape whose order is unknown."""
        dims = tuple(fresh_dim(size, feature) for size in shape)
        return replace(self, dims=dims, offsets={}, spread=self.origins(), summed=())

    def through(self, op: str) -> Value:
        """The same entries after a nonlinear op."""
        passed = ((name, op) for name in sorted(self.parameters))
        return replace(self, via=tuple(dict.fromkeys((*self.via, *passed))))

    def with_dims(self, dims: Iterable[Dim]) -> Value:
        """The same tensor seen with other dimensions."""
        return replace(self, dims=tuple(dims))


def sums(spans: Spans, groups: Iterable[list[Run]]) -> Spans:
    """The spans at every place that one run of each group leads to."""
    for group in sorted(groups, key=lambda group: group[0].stride):
        spans = merge(span for run in group for span in _repeat(spans, run))
    return spans


def _repeat(spans: Spans, run: Run) -> Iterable[tuple[int, int]]:
    """The spans at every place of the run; one long span where they join up."""
    if len(spans) == 1 and spans[0][1] - spans[0][0] >= run.stride:
        return ((spans[0][0] + run.start, spans[0][1] + run.start + (run.size - 1) * run.stride),)
    if run.size * len(spans) > _MOST_SPANS:
        return ((spans[0][0] + run.start, spans[-1][1] + run.start + (run.size - 1) * run.stride),)
    places = (run.start + i * run.stride for i in range(run.size))
    return [(start + place, stop + place) for place in places for start, stop in spans]


def merge(spans: Iterable[tuple[int, int]]) -> Spans:
    """Sorted, disjoint, joined where they touch."""
    joined: list[tuple[int, int]] = []
    for start, stop in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], stop))
        elif stop > start:
            joined.append((start, stop))
    return tuple(joined)


def covered(spans: Iterable[tuple[int, int]]) -> int:
    """How many entries lie in any of the spans."""
    return sum(stop - start for start, stop in merge(spans))


def dim_size(dim: Dim) -> int:
    """Product of the factors' sizes: 1 for an empty dimension."""
    return math.prod(factor.size for factor in dim)


def repeated_dim(size: int) -> Dim:
    """A dimension along which a weight is repeated."""
    return (Factor(size, repeated=True),) if size != 1 else ()


def has_sources(value: Value) -> bool:
    """Whether an activation was multiplied into a weight."""
    return any(is_source(run.axis) for dim in value.dims for factor in dim for run in factor.runs)


def mixed(dim: Dim) -> tuple[Inner, ...]:
    """What a weight keeps of a dimension that a sum or a choice has taken together."""
    return tuple(Inner(run.axis, "mixed", run.size) for factor in dim for run in factor.runs if not is_source(run.axis))


def fresh_dim(size: int, feature: bool = False) -> Dim:
    """A dimension that runs along no parameter."""
    return (Factor(size, feature=feature),) if size != 1 else ()


def plain(dim: Dim) -> Dim:
    """The dimension without its runs."""
    return tuple(replace(factor, runs=()) for factor in dim)


def as_feature(dim: Dim) -> Dim:
    """The dimension as a feature axis."""
    return tuple(replace(factor, feature=True) for factor in dim)


def result_dim(dim: Dim) -> Dim:
    """A weight's dimension in a product: a feature, unless samples have picked it or only activations run along it."""
    runs = [run for factor in dim for run in factor.runs]
    if any(factor.picked for factor in dim) or (runs and all(is_source(run.axis) for run in runs)):
        return tuple(Factor(factor.size) for factor in dim)
    return as_feature(dim)


def is_feature(dim: Dim) -> bool:
    """Whether any factor of the dimension is a feature axis."""
    return any(factor.feature for factor in dim)


def unknown(kind: Kind, shape: tuple[int, ...], touched: bool = False) -> Value:
    """A value of that shape that runs along no parameter."""
    return Value(kind, tuple(fresh_dim(size) for size in shape), touched=touched)


def parameter_value(name: str, shape: tuple[int, ...]) -> Value:
    """A parameter as it is stored."""
    dims: list[Dim] = []
    for index, size in enumerate(shape):
        run = Run(Axis(name, index), 0, 1, 0, size)
        dims.append((Factor(size, (run,)),) if size != 1 else ())
    return Value("weight", tuple(dims), frozenset({name}))
