"""wiring: from which parameters' results the next one reads, and where residual branches join. No pass needs it: it is
what a plan keeps of the graph for its picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import fx

from normc.model.facts import Facts, Log, analysis
from normc.model.ops.call import MATRIX, Contact
from normc.model.trace.graph import ModelGraph, shape_of
from normc.model.trace.reach import in_backward
from normc.passes.analyses.bind import Binding
from normc.passes.analyses.flow import Flow
from normc.plans.wiring import Edge, Wiring

_MOST = 64  # sources of one value: a value that is made of more keeps the latest
_INPUTS, _OUTPUT = -1, -2
_Found = dict[tuple[int, int], Edge]


@analysis("wiring")
def wiring(model: ModelGraph, facts: Facts, log: Log) -> Wiring:
    """One walk through the graph: behind every node, the places that its value last came from."""
    met = _met(model, facts[Binding])
    names = list(dict.fromkeys(name for node in model.graph.nodes for name in met.get(node, ())))
    number = {name: i for i, name in enumerate(names)}
    joins = {join.node: (len(names) + i, join.branch) for i, join in enumerate(facts[Flow].joins)}
    behind: dict[fx.Node, frozenset[int]] = {}
    edges: _Found = {}
    for node in model.graph.nodes:
        targets, branch = [number[name] for name in met.get(node, ())], None
        if node in joins:
            place, branch = joins[node]
            targets.append(place)
        elif node.op == "output":
            targets = [_OUTPUT]
        for target in targets:
            _lead(edges, node, target, behind, branch)
        behind[node] = frozenset(targets) if targets else _came(node, behind)
    places = {_INPUTS: len(names) + len(joins), _OUTPUT: len(names) + len(joins) + 1}
    found = (edge._replace(source=places.get(edge.source, edge.source)) for edge in edges.values())
    kept = tuple(edge._replace(target=places.get(edge.target, edge.target)) for edge in found)
    return Wiring(tuple(names), tuple(node.meta.get("module", "") for node in joins), kept)


def _lead(
    edges: _Found, node: fx.Node, target: int, behind: Mapping[fx.Node, frozenset[int]], branch: fx.Node | None
) -> None:
    """Edges to `target`, which is at `node`. The model's inputs count where nothing else leads there: not as masks."""
    sources = frozenset().union(*(behind[operand] for operand in node.all_input_nodes))
    for operand in node.all_input_nodes:
        stream = branch is not None and operand is not branch
        for source in sorted(behind[operand]):
            if source == target or (source == _INPUTS and len(sources) > 1):
                continue
            old = edges.get((source, target), Edge(source, target, 0, False))
            edges[source, target] = old._replace(
                entries=max(old.entries, _entries(operand)), stream=old.stream or stream
            )


def _came(node: fx.Node, behind: Mapping[fx.Node, frozenset[int]]) -> frozenset[int]:
    if "input" in node.meta:
        return frozenset({_INPUTS})
    operands = [behind[operand] for operand in node.all_input_nodes]
    if len(operands) == 1:
        return operands[0]
    found = frozenset().union(*operands)
    return found if len(found) <= _MOST else frozenset(sorted(found)[-_MOST:])


def _entries(node: fx.Node) -> int:
    size = 1
    for side in shape_of(node):
        size *= int(side)
    return size


def _met(model: ModelGraph, binding: Binding) -> dict[fx.Node, tuple[str, ...]]:
    """Of each node that a parameter meets, one name for each module that has a parameter there."""
    names = {parameter.name: (parameter.name, *parameter.aliases) for parameter in model.parameters}
    contacts: dict[fx.Node, list[Contact]] = {}
    for own in binding.contacts.values():
        for contact in own:
            if not in_backward(contact.node) and contact.node.op != "output":
                contacts.setdefault(contact.node, []).append(contact)
    return {node: tuple(_one_a_module(node, found, names)) for node, found in contacts.items()}


def _one_a_module(node: fx.Node, found: Iterable[Contact], names: Mapping[str, Sequence[str]]) -> Iterable[str]:
    chosen: dict[str, str] = {}
    for contact in sorted(found, key=lambda contact: contact.kind not in MATRIX):
        name = _name_there(names[contact.parameter], node.meta.get("module", ""))
        chosen.setdefault(name.rpartition(".")[0], name)
    return chosen.values()


def _name_there(names: Sequence[str], module: str) -> str:
    """The name by which the module that ran the op, or the nearest above it, knows the parameter; else its first."""
    while True:
        for name in names:
            if name.rpartition(".")[0] == module:
                return name
        if not module:
            return names[0]
        module = module.rpartition(".")[0]
