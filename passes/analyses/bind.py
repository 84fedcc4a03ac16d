"""bind: every parameter to every place where it meets an activation, through views, casts, slices and ties.

One walk through the graph in its own order; each op's rule says how the axes of its operands become those of its
result.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import fx

from normc.model.facts import Facts, Log, analysis
from normc.model.ops.call import Call, Consumption, Contact, Record, rule_for
from normc.model.ops.making import result_of, settled
from normc.model.ops.numbered import by_stream
from normc.model.ops.separation import Separation
from normc.model.ops.stacked import beside_stacks
from normc.model.ops.starting import without_starts
from normc.model.ops.value import Kind, Value, parameter_value, unknown
from normc.model.trace.graph import ModelGraph, shape_of
from normc.nodes import op_name


@dataclass(frozen=True, slots=True)
class Binding:
    """Contacts of every parameter in graph order, where its outputs were consumed or kept apart, every node's value."""

    contacts: Mapping[str, tuple[Contact, ...]]
    consumptions: tuple[Consumption, ...]
    separations: tuple[Separation, ...]
    values: Mapping[fx.Node, Value | Sequence[Value]]


@analysis("bind")
def bind(model: ModelGraph, facts: Facts, log: Log) -> Binding:
    """Walk the graph once."""
    record = Record({parameter.name: tuple(parameter.shape) for parameter in model.parameters})
    values: dict[fx.Node, Value | Sequence[Value]] = {}
    for node in model.graph.nodes:
        if node.op == "output":
            _reach_output(node, values, record)
        elif node.op == "call_function":
            values[node] = _result(node, values, record)
        else:
            values[node] = _leaf(node)
    log.notes += _lone_lookups(values)
    contacts: dict[str, list[Contact]] = {parameter.name: [] for parameter in model.parameters}
    met = by_stream(without_starts(settled(record, values), values))
    for contact in beside_stacks(met, record.shapes):
        contacts[contact.parameter].append(contact)
    found = {name: tuple(own) for name, own in contacts.items()}
    return Binding(found, tuple(record.consumptions), tuple(record.separations), values)


def _lone_lookups(values: Mapping[fx.Node, Value | Sequence[Value]]) -> list[str]:
    """What is said of tables of which an index from the inputs picks one entry, or one a sample: no size tells that
    axis from another.
    """
    said: dict[str, None] = {}
    for node in values:
        if op_name(node) != "aten.embedding" or not all(isinstance(arg, fx.Node) for arg in node.args[:2]):
            continue
        table, index = (values[arg] for arg in node.args[:2] if isinstance(arg, fx.Node))
        if not (isinstance(table, Value) and isinstance(index, Value) and index.kind == "data"):
            continue
        for name in sorted(table.parameters):
            if math.prod(index.shape) == 1:
                what = f"looks up one entry of {name} alone, so its row may be another's: give two samples or more"
                said[f"the example {what}"] = None
            elif index.shape[-1:] == (1,) and len(index.shape) > 1:
                what = f"looks up one entry of {name} a sample: if these are tokens, give two or more"
                said[f"the example {what}; axes of size one look alike"] = None
    return list(said)


def _leaf(node: fx.Node) -> Value:
    if "param" in node.meta:
        return parameter_value(node.meta["param"], shape_of(node))
    return unknown("data" if "input" in node.meta else "constant", shape_of(node))


def _result(node: fx.Node, values: dict[fx.Node, Value | Sequence[Value]], record: Record) -> Value | Sequence[Value]:
    call = Call(node, values, record)
    kinds = {call.value(operand).kind for operand in node.all_input_nodes}
    if kinds <= {"constant"}:
        return _plain_results(call, "constant")
    rule = rule_for(node)
    if rule is not None:
        return result_of(call, rule)
    call.record.end(item for operand in call.operands for item in call.value(operand).made)
    return _without_rule(call, kinds)


def _plain_results(call: Call, kind: Kind, touched: bool = False) -> Value | Sequence[Value]:
    results = [unknown(kind, shape, touched) for shape in call.shapes]
    return results if len(results) != 1 else results[0]


def _without_rule(call: Call, kinds: set[Kind]) -> Value | Sequence[Value]:
    """Nothing is guessed: a weight's axes are lost behind the op, and its row will say so."""
    weights = [call.value(node) for node in call.operands if call.value(node).kind == "weight"]
    if "data" not in kinds:
        names = frozenset().union(*(weight.parameters for weight in weights))
        lost = next((weight.lost for weight in weights if weight.lost), "") or op_name(call.node)
        return [
            Value("weight", unknown("weight", shape).dims, names, lost=lost).through(op_name(call.node))
            for shape in call.shapes
        ]
    host = next(node for node in call.operands if call.value(node).kind == "data")
    for slot, node in enumerate(call.operands):
        value = call.value(node)
        if value.kind == "weight":
            call.meet(value, ["none"] * len(value.dims), "unknown", host)
        call.consume(node, slot)
    touched = any(call.value(node).touched or call.value(node).kind == "weight" for node in call.operands)
    return _plain_results(call, "data", touched)


def _reach_output(node: fx.Node, values: dict[fx.Node, Value | Sequence[Value]], record: Record) -> None:
    """What the model returns is consumed there. A weight that it only returns meets nothing, but one number scales."""
    call = Call(node, values, record)
    met = {contact.parameter for contact in record.contacts}
    for slot, operand in enumerate(call.operands):
        call.consume(operand, slot)
        value = call.value(operand)
        record.end(value.made)
        if value.kind == "weight" and not value.parameters <= met:
            one_number = math.prod(value.shape) == 1 and not value.lost
            call.meet(value, ["none"] * len(value.dims), "gain" if one_number else "unknown", operand)
