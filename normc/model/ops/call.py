"""What an op rule sees and says: its operands' values in, its results' values out, and the contacts it found."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import fx

from normc.model.ops.partners import Partner
from normc.model.ops.parts import Part, gain_parts, parts_of, with_picked
from normc.model.ops.separation import Separation, separation
from normc.model.ops.value import Axis, Dim, Made, Spans, Value, as_feature, plain, unknown
from normc.model.trace.graph import named_arguments, shape_of
from normc.nodes import op_name
from normc.plans.row import AxisUse
from normc.registry import Registry

ContactKind = Literal["contract", "convolve", "lookup", "gain", "shift", "join", "operand", "unknown"]
MATRIX: tuple[ContactKind, ...] = ("contract", "convolve")


@dataclass(frozen=True, slots=True)
class Contact:
    """One place where a parameter meets an activation.

    `data` is the activation, `result` what comes out. `varying`: whether no constant index chose the entries.
    `partners`: of a shift or gain, whose output's entries it meets. `spans`: the entries used, of every axis.
    `alike`: of a shift or gain, whether it is one number for many entries.
    `outer`: of a shift or gain, whether it makes an axis that the activation doesn't have.
    """

    parameter: str
    kind: ContactKind
    node: fx.Node
    parts: tuple[Part, ...]
    data: fx.Node | None
    touched: bool
    via: tuple[str, ...] = ()
    spans: tuple[tuple[int, Spans], ...] = ()
    varying: bool = True
    partners: tuple[Partner, ...] = ()
    reason: str = ""
    alike: bool = False
    outer: bool = False


class Consumption(NamedTuple):
    """Entries `spans` of a weight's output axis went into operand `slot` of `node`."""

    axis: Axis
    spans: Spans
    node: fx.Node
    slot: int


@dataclass(slots=True)
class Record:
    """The growing list of what was found, the only thing that a rule may add to; and every parameter's shape.

    Of what activations made (normc/model/ops/making.py), by the nodes that began it: `begun` holds contacts that are
    none if it is a weight; `shown` stand as weights somewhere, `ended` as activations. `mixed`: axes of outputs that a
    choice mixes.
    """

    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    contacts: list[Contact] = field(default_factory=list)
    consumptions: list[Consumption] = field(default_factory=list)
    separations: list[Separation] = field(default_factory=list)
    begun: dict[str, list[Contact]] = field(default_factory=dict)
    shown: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    mixed: set[Axis] = field(default_factory=set)

    def keep(self, other: Record) -> None:
        """What a trial has found is so."""
        self.contacts += other.contacts
        self.consumptions += other.consumptions
        self.separations += other.separations

    def end(self, made: Iterable[Made]) -> None:
        """What was made is an activation."""
        for item in made:
            self.ended |= item.origins


class Call:
    """One op call: arguments by their schema names, values of the operands, shapes of the results."""

    def __init__(self, node: fx.Node, values: dict[fx.Node, Value | Sequence[Value]], record: Record) -> None:
        self.node = node
        self.name = op_name(node)
        self.record = record
        self.host: fx.Node | None = None
        self._values = values
        self._seen: Mapping[fx.Node, Value] = {}
        self.arguments = named_arguments(node)

    def __getitem__(self, name: str) -> Any:
        return self.arguments.get(name)

    def named(self, name: str) -> Call:
        """The call seen as the sum or product that it holds inside."""
        seen = object.__new__(Call)
        seen.__dict__.update(self.__dict__)
        seen.name = name
        return seen

    def seeing(
        self, values: Mapping[fx.Node, Value], record: Record | None = None, host: fx.Node | None = None
    ) -> Call:
        """The call with other values of some operands. `host`: an activation that is multiplied into one of them."""
        seen = self.named(self.name)
        seen._seen = {**self._seen, **values}
        seen.record = record or self.record
        seen.host = host
        return seen

    def first(self) -> Any:
        """The first argument, whatever the schema calls it."""
        return self.node.args[0] if self.node.args else next(iter(self.arguments.values()), None)

    def value(self, argument: Any) -> Value:
        """The value of a node (of its first tensor, if it is a list); a constant for a number or None."""
        if isinstance(argument, fx.Node):
            value = self._seen.get(argument) or self._values.get(argument)
            if isinstance(value, Value):
                return value
            if value:
                return value[0]
            return unknown("constant", shape_of(argument))
        return unknown("constant", ())

    def values(self, argument: fx.Node) -> Sequence[Value]:
        """All values of a node that yields several."""
        value = self._values.get(argument, ())
        return (value,) if isinstance(value, Value) else value

    @property
    def operands(self) -> list[fx.Node]:
        """Every tensor argument, in order, once for each place."""
        found: list[fx.Node] = []

        def take(node: fx.Node) -> fx.Node:
            found.append(node)
            return node

        fx.node.map_arg((self.node.args, self.node.kwargs), take)
        return found

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the (first) result."""
        return self.shapes[0] if self.shapes else ()

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of all results."""
        val = self.node.meta.get("val")
        items = val if isinstance(val, (tuple, list)) else (val,)
        return [tuple(item.shape) if isinstance(item, torch.Tensor) else () for item in items]

    def stack(self, weight: Value, form: Literal["stack", "built"] = "stack") -> tuple[Made, ...]:
        """What the result is as a weight that begins here; nothing if its axes are lost."""
        return (Made(form, weight, frozenset({self.node.name})),) if not weight.lost else ()

    def meet(
        self,
        weight: Value,
        uses: Sequence[AxisUse],
        kind: ContactKind,
        data: Any = None,
        *,
        varying: bool = True,
        partners: tuple[Partner, ...] = (),
        alike: bool = False,
        outer: bool = False,
        places: bool = False,
    ) -> None:
        """Record that `weight`, whose dimensions play `uses`, meets `data` here.

        `places`: whether numbers that have picked one entry of its axes count places. Else those axes hold a stack,
        unless the weight stands as an activation: then they count tokens.
        """
        node = data if isinstance(data, fx.Node) else None
        if self.host is not None and (node is None or self.value(node).kind == "constant"):
            node = self.host
        touched = self.value(node).touched or self.value(node).kind == "weight" if node is not None else False
        origins = weight.origins()
        chosen: AxisUse = "index" if places or kind in ("operand", "join") else "block"
        if kind == "contract":
            uses, rows = with_picked(weight, uses)
            kind = "lookup" if rows else kind
        for name in sorted(weight.parameters):
            product = kind in MATRIX
            parts = parts_of(weight, uses, name, product, "out" if kind == "lookup" else "block", chosen)
            shape = self.record.shapes[name]
            spans = tuple((axis.number, _within(where, shape[axis.number])) for axis, where in sorted(origins.items())
                          if axis.parameter == name)  # fmt: skip
            number = kind in ("shift", "gain") and math.prod(weight.shape) == 1
            if weight.lost and number:  # made of all of it, in whatever way: a determinant
                parts = tuple(Part(axis, "block", size, 1, 0) for axis, size in enumerate(shape) if size > 1)
            actual: ContactKind = "unknown" if weight.lost and not number else kind
            inside = gain_parts(weight, uses, name, shape, parts) if product else None
            if inside is not None:
                actual, parts = "gain", inside
            via = tuple(op for parameter, op in weight.via if parameter == name)
            moving = varying and not any(factor.picked == "index" for dim in weight.dims for factor in dim)
            own = tuple(partner for partner in partners if partner.own.parameter == name)
            self.record.contacts.append(Contact(
                name, actual, self.node, parts, node, touched, via, spans, moving, own, weight.lost, alike, outer
            ))  # fmt: skip

    def consume(self, argument: Any, slot: int) -> None:
        """Record which weights' outputs end in operand `slot` of this op."""
        self.consume_value(self.value(argument), slot)

    def consume_value(self, value: Value, slot: int) -> None:
        """The same for a part of an operand."""
        if value.kind != "data":
            return
        for axis, spans in value.origins().items():
            self.record.consumptions.append(Consumption(axis, spans, self.node, slot))

    def mix(self, dim: Dim) -> None:
        """Record that a choice mixes what lies along a dimension of an activation: results of a stack of matrices."""
        runs = [run for factor in dim for run in factor.runs]
        self.record.mixed |= {
            run.axis for run in runs if run.size == self.record.shapes[run.axis.parameter][run.axis.number]
        }

    def separate(self, argument: Any, shared: Sequence[int], summed: Sequence[int]) -> None:
        """Record what a product with another activation keeps apart of this one (see `separation`)."""
        value = self.value(argument)
        found = separation(value, shared, summed, self.node) if value.kind == "data" else None
        if found is not None:
            self.record.separations.append(found)

    def holds_all(self, value: Value) -> bool:
        """Whether a value is made of all entries of the axes that it runs along."""
        shapes = self.record.shapes
        return all(spans == ((0, shapes[parameter][axis]),) for (parameter, axis), spans in value.origins().items())

    def data(self, argument: Any, slot: int, feature: int = -1) -> Value:
        """An operand in a data place, consumed. A parameter there is a learned operand: a token, a query, a latent.

        Its dimension `feature` is that of the features.
        """
        value = self.value(argument)
        if value.kind == "weight":
            if any(factor.picked == "block" for dim in value.dims for factor in dim):
                return self.read(value, argument)
            along = range(len(value.dims))[feature] if value.dims else 0
            uses: list[AxisUse] = ["out" if i == along else "index" for i in range(len(value.dims))]
            self.meet(value, uses, "operand", argument)
            dims = [as_feature(plain(dim)) if i == along else plain(dim) for i, dim in enumerate(value.dims)]
            return Value("data", tuple(dims), touched=True)
        self.consume(argument, slot)
        return replace(value, dims=tuple(plain(dim) for dim in value.dims), spread={}, offsets={}, summed=())

    def read(self, rows: Value, argument: Any) -> Value:
        """Rows that were chosen by what the model computed, where an activation stands: a table is looked up."""
        chosen = [any(factor.picked == "block" for factor in dim) for dim in rows.dims]
        dims = [tuple(replace(factor, picked="") for factor in dim) for dim in rows.dims]
        self.meet(rows.with_dims(dims), ["index" if there else "out" for there in chosen], "lookup", argument)
        features = [
            plain(dim) if there else as_feature(plain(dim)) for dim, there in zip(rows.dims, chosen, strict=True)
        ]
        return Value("data", tuple(features), touched=True)


Result = Value | Sequence[Value]


def _within(spans: Spans, size: int) -> Spans:
    """The spans inside an axis: an index that picks more entries than there are runs past its end."""
    return tuple((start, min(stop, size)) for start, stop in spans if start < size)


Rule = Callable[[Call], Result]
rules: Registry[Rule] = Registry("op rule", "normc.model.ops")


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a function as the rule of these ops (`aten.linear`); in-place forms share it."""
    return rules.register(*names)


def rule_for(node: fx.Node) -> Rule | None:
    """The rule of a node's op: by its name, by its name without the in-place underscore, or by its pointwise tag."""
    name = op_name(node)
    found = rules.find(name) or rules.find(name.rstrip("_"))
    if found is None and isinstance(node.target, torch._ops.OpOverload) and torch.Tag.pointwise in node.target.tags:
        return rules.find("pointwise")
    return found
