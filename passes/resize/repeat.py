"""Blocks that a model repeats: parameters under one prefix and a running number, whose ops are the same ones again.

Found by the order in which the blocks run: the calls between two blocks' first uses of their parameters make up a
window, and windows that follow each other hold the same calls on corresponding operands.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, fx

from normc.model.trace.graph import ModelGraph
from normc.nodes import op_name
from normc.passes.resize.walk import shapes_of


@dataclass(frozen=True, slots=True)
class Stack:
    """Blocks 0 .. length - 1, called `prefixes`.`numbers`[i]; blocks `first` .. of `windows`, `period` in each, repeat.

    windows   calls of each repeat, in corresponding order
    entering  what the first window takes from before it, by the call of that window that the second one takes instead
    problem   why nothing repeats ("" if something does), said about `differing`
    """

    prefixes: tuple[str, ...]
    numbers: tuple[int, ...]
    members: Mapping[str, int]
    first: int = 0
    period: int = 1
    windows: tuple[tuple[fx.Node, ...], ...] = ()
    entering: Mapping[fx.Node, fx.Node] | None = None
    problem: str = ""

    @property
    def length(self) -> int:
        """How many blocks there are."""
        return len(self.numbers)

    @property
    def name(self) -> str:
        """The prefix, as the parameters have it."""
        return self.prefixes[0]

    @property
    def repeating(self) -> range:
        """The blocks that repeat."""
        return range(self.first, self.first + len(self.windows) * self.period)

    @property
    def step(self) -> int:
        """What the next repeat of a block adds to its number."""
        return self.numbers[self.first + self.period] - self.numbers[self.first]

    def number(self, name: str) -> int | None:
        """The number in a parameter's, buffer's or module's name; None if it is none of the stack's."""
        for prefix in self.prefixes:
            rest = name.removeprefix(f"{prefix}." if prefix else "")
            head = rest.split(".")[0]
            if (rest != name or not prefix) and head.isdigit():
                return int(head)
        return None

    def block(self, name: str) -> int | None:
        """The block that a name belongs to."""
        number = self.number(name)
        return self.numbers.index(number) if number in self.numbers else None

    def renamed(self, name: str, number: int | str) -> str:
        """The name with another number."""
        for prefix in self.prefixes:
            lead = f"{prefix}." if prefix else ""
            rest = name.removeprefix(lead)
            head, dot, tail = rest.partition(".")
            if (rest != name or not prefix) and head.isdigit():
                return f"{lead}{number}{dot}{tail}"
        return name


def stacks(model: ModelGraph) -> tuple[Stack, ...]:
    """Every stack that runs as one, outermost first; those in which nothing repeats say why."""
    calls = [node for node in model.graph.nodes if node.op == "call_function"]
    place = {node: i for i, node in enumerate(calls)}
    found: list[Stack] = []
    for candidate in _candidates(model, place):
        inside = any(
            name.startswith(f"{prefix}.") and not other.problem
            for name in candidate.prefixes for other in found for prefix in other.prefixes
        )  # fmt: skip
        if not inside:
            found.append(_repeats(model, candidate, calls, place))
    return tuple(stack for stack in found if not stack.problem) + tuple(stack for stack in found if stack.problem)


def _candidates(model: ModelGraph, place: Mapping[fx.Node, int]) -> Iterable[Stack]:
    """Prefixes with two or more running numbers, which run in their order; those that run side by side are one."""
    groups: dict[str, dict[int, list[str]]] = {}
    for parameter in model.parameters:
        parts = parameter.name.split(".")
        for at, word in enumerate(parts):
            if word.isdigit() and at + 1 < len(parts):
                groups.setdefault(".".join(parts[:at]), {}).setdefault(int(word), []).append(parameter.name)
    merged: list[tuple[list[str], list[int], list[list[str]]]] = []
    for prefix, blocks in sorted(groups.items(), key=lambda item: item[0].count(".")):
        numbers = sorted(blocks)
        if len(numbers) < 2:
            continue
        names = [blocks[number] for number in numbers]
        for other_prefixes, other_numbers, other_names in merged:
            both = [a + b for a, b in zip(other_names, names, strict=False)]
            level = other_prefixes[0].count(".") == prefix.count(".")
            if level and other_numbers == numbers and _spans(model, both, place, apart=True):
                other_prefixes.append(prefix)
                other_names[:] = both
                break
        else:
            merged.append(([prefix], numbers, names))
    for prefixes, numbers, names in merged:
        if _spans(model, names, place):
            members = {name: i for i, block in enumerate(names) for name in block}
            yield Stack(tuple(prefixes), tuple(numbers), members)


def _spans(model: ModelGraph, names: list[list[str]], place: Mapping[fx.Node, int], apart: bool = False) -> list[int]:
    """Where each block first uses a parameter; nothing if they don't run one after the other."""
    uses = [[place[user] for name in block for user in model.nodes[name].users if user in place] for block in names]
    if not all(uses):
        return []
    firsts = [min(block) for block in uses]
    ordered = all(a < b for a, b in pairwise(firsts))
    if apart and any(max(a) >= min(b) for a, b in pairwise(uses)):
        return []
    return firsts if ordered else []


def _repeats(model: ModelGraph, stack: Stack, calls: Sequence[fx.Node], place: Mapping[fx.Node, int]) -> Stack:
    """The stack with the most blocks that repeat, in the shortest period."""
    names: list[list[str]] = [[] for _ in stack.numbers]
    for name, block in stack.members.items():
        names[block].append(name)
    starts = _spans(model, names, place)
    best, why = stack, ""
    for period in range(1, stack.length // 2 + 1):
        for first in range(period if period > 1 else stack.length):
            at = first
            while at + period < stack.length:
                found, problem = _run(stack, at, period, starts, calls, place)
                if found is None:
                    why = why or problem
                    at += 1 if period == 1 else period
                    continue
                if len(found.repeating) > len(best.repeating) if best.windows else True:
                    best = found
                at += max(len(found.windows) - 1, 1) * period
            if period == 1:
                break
    if not best.windows or 2 * len(best.repeating) < stack.length:
        return Stack(stack.prefixes, stack.numbers, stack.members, problem=why or "too few of its blocks are alike")
    return best


def _run(
    stack: Stack, first: int, period: int, starts: Sequence[int], calls: Sequence[fx.Node], place: Mapping[fx.Node, int]
) -> tuple[Stack | None, str]:
    """The longest run of alike windows from block `first` on; None, and why, if there are not even two."""
    marks = starts[first::period]
    whole = (stack.length - first) // period
    length = marks[1] - marks[0]
    runs = 1
    forward, back, why = length, len(calls), ""
    for a, b in pairwise(marks[:whole]):
        ahead = _alike(stack, calls, range(a, min(a + length, len(calls))), b - a, period)
        behind = _alike(stack, calls, range(a - 1, max(a - 64, -1), -1), b - a, period)
        rising = {stack.numbers[at + period] - stack.numbers[at] for at in range(first, first + runs * period, period)}
        if b - a != length or len(rising) > 1 or min(ahead, forward) + min(behind, back) < length:
            at = min(a + ahead, len(calls) - 1)
            why = why or f"block {stack.numbers[first + (runs - 1) * period]} and the one after it part at " + (
                f"{op_name(calls[at])} ({calls[at].meta.get('source', '')})".replace(" ()", ""))  # fmt: skip
            break
        forward, back, runs = min(ahead, forward), min(behind, back), runs + 1
    while runs > 1:
        for shift in range(length - forward, min(back, length - 1, 64) + 1):
            windows = tuple(tuple(calls[mark - shift : mark - shift + length]) for mark in marks[:runs])
            entering = _corresponding(stack, windows, period)
            if entering is not None and not _collected(calls, windows, place):
                return Stack(stack.prefixes, stack.numbers, stack.members, first, period, windows, entering), ""
            why = why or (
                "its blocks' operands don't correspond"
                if entering is None
                else "what follows collects every block's results"
            )
        runs -= 1
    return None, why


def _alike(stack: Stack, calls: Sequence[fx.Node], places: range, by: int, period: int) -> int:
    """How many calls, one after the other, are the same as those `by` calls later."""
    for count, at in enumerate(places):
        if at + by >= len(calls) or not _same_call(stack, calls[at], calls[at + by], period):
            return count
    return len(places)


def _leaves(node: fx.Node) -> list[Any]:
    found: list[Any] = []

    def take(part: Any) -> None:
        if isinstance(part, (list, tuple)):
            found.append(len(part))
            for item in part:
                take(item)
        elif isinstance(part, dict):
            for key, item in part.items():
                found.append(key)
                take(item)
        else:
            found.append(part)

    take((node.args, node.kwargs))
    return found


def _same_call(stack: Stack, a: fx.Node, b: fx.Node, period: int) -> bool:
    if a.target is not b.target or shapes_of(a) != shapes_of(b):
        return False
    first, second = _leaves(a), _leaves(b)
    return len(first) == len(second) and all(
        _same_place(stack, x, y, period) if isinstance(x, fx.Node) and isinstance(y, fx.Node) else
        type(x) is type(y) and (x == y or (isinstance(x, float) and math.isnan(x) and math.isnan(y)))
        for x, y in zip(first, second, strict=True)
    )  # fmt: skip


def _same_place(stack: Stack, a: fx.Node, b: fx.Node, period: int) -> bool:
    """Whether two operands may correspond: calls may; a block's own tensor, only to the next one's of that name."""
    if a is b:
        return True
    if a.op == "call_function" or b.op == "call_function":
        return b.op == "call_function" and shapes_of(a) == shapes_of(b)
    kind = next((kind for kind in ("param", "buffer") if kind in a.meta), "input")
    if kind not in b.meta or shapes_of(a) != shapes_of(b):
        return False
    block = stack.block(a.meta[kind])
    if block is not None:
        later = stack.numbers[block + period : block + period + 1]
        return bool(later) and bool(stack.renamed(a.meta[kind], later[0]) == b.meta[kind])
    x, y = a.meta.get("concrete"), b.meta.get("concrete")
    return kind == "buffer" and isinstance(x, Tensor) and isinstance(y, Tensor) and torch.equal(x, y)


def _corresponding(stack: Stack, windows: Sequence[tuple[fx.Node, ...]], period: int) -> dict[fx.Node, fx.Node] | None:
    """`entering`, if the operands in every window correspond to those in the next."""
    where = {node: (number, i) for number, window in enumerate(windows) for i, node in enumerate(window)}
    entering: dict[fx.Node, fx.Node] = {}
    for number, (one, other) in enumerate(pairwise(windows)):
        for a, b in zip(one, other, strict=True):
            for x, y in zip(_leaves(a), _leaves(b), strict=True):
                if not isinstance(x, fx.Node) or "call_function" not in (x.op, y.op):
                    continue
                at, to = where.get(x), where.get(y)
                if x is y and at is None:
                    continue
                if at is not None and to == (at[0] + 1, at[1]):
                    continue
                if at is None and to is not None and to[0] == number == 0 and entering.setdefault(y, x) is x:
                    continue
                return None
    return entering


def _collected(calls: Sequence[fx.Node], windows: Sequence[tuple[fx.Node, ...]], place: Mapping[fx.Node, int]) -> bool:
    """Whether anything behind the last window reads an earlier one."""
    end = place[windows[-1][-1]]
    return any(
        user.op == "output" or place[user] > end for window in windows[:-1] for node in window for user in node.users
    )
