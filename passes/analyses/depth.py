"""depth: how many blocks the residual stream passes, by the weights that its branches hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import fx

from normc.model.facts import Facts, Log, analysis
from normc.model.trace.graph import ModelGraph
from normc.passes.analyses.bind import Binding
from normc.passes.analyses.flow import Flow, Join


@dataclass(frozen=True, slots=True)
class Depth:
    """`blocks` is 0 where that isn't known: without branches, and where they neither have numbers nor repeat."""

    blocks: int


@analysis("depth")
def depth(model: ModelGraph, facts: Facts, log: Log) -> Depth:
    """A branch belongs to the block before it unless its weights have another number, or are that block's again."""
    holders: dict[fx.Node, list[str]] = {}
    for name, contacts in facts[Binding].contacts.items():
        for contact in contacts:
            holders.setdefault(contact.node, []).append(name)
    inside = [_inside(join, facts[Flow].place) for join in facts[Flow].joins]
    nested = set().union(*inside)
    branches = [
        sorted({name for node in nodes for name in holders.get(node, ())})
        for join, nodes in zip(facts[Flow].joins, inside, strict=True)
        if join.node not in nested
    ]
    numbers = [_number(names) for names in branches]
    if any(number is not None for number in numbers):
        return Depth(_runs(branches, numbers))
    shapes = {parameter.name: parameter.shape for parameter in model.parameters}
    return Depth(_repeats([[shapes[name] for name in names] for names in branches]))


def _inside(join: Join, place: Mapping[fx.Node, int]) -> set[fx.Node]:
    """What lies between a stream and the end of its branch."""
    waiting, seen = [join.branch], {join.branch}
    while waiting:
        for source in waiting.pop().all_input_nodes:
            if place[source] > place[join.stream] and source not in seen:
                seen.add(source)
                waiting.append(source)
    return seen


def _number(names: Sequence[str]) -> int | None:
    """The number that all the names begin with: 3 for h.3.attn.q and h.3.attn.k. None if there isn't one."""
    firsts = {next((int(word) for word in name.split(".") if word.isdigit()), None) for name in names}
    return firsts.pop() if len(firsts) == 1 else None


def _runs(branches: Sequence[Sequence[str]], numbers: Sequence[int | None]) -> int:
    """How many blocks there are in a row."""
    blocks, last, seen = 0, None, set[str]()
    for names, number in zip(branches, numbers, strict=True):
        if number is None:
            continue
        if number != last or seen & set(names):
            blocks, seen = blocks + 1, set()
        last, seen = number, seen | set(names)
    return blocks


def _repeats(branches: Sequence[object]) -> int:
    """How often the shortest period of a sequence comes in it; 0 if it has none."""
    for period in range(1, len(branches)):
        if list(branches[period:]) == list(branches[:-period]):
            return -(-len(branches) // period)
    return 1 if 0 < len(branches) <= 2 else 0
