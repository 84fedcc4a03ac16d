"""Answers to what a forward asks about data. What a trace doesn't know is made up, and marked on its node.

A call that asks again and again while nothing new is read is a loop that waits for another answer: it gets one.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor, fx

from normc.model.trace.provenance import Site
from normc.nodes import op_name

aten = torch.ops.aten

Value: TypeAlias = bool | int | float

PATIENCE = 8  # rounds of a loop with one answer
_ROUNDS = 1024  # questions of one call, whatever is read in between
_ENDLESS = 3_000  # rounds of a loop, whatever the answers
_NUMBERS: tuple[float, ...] = (1.0, 1e-6, 100.0, 0.0, -100.0)  # a small error is likelier than none at all
_INTEGERS = 256
_SAME = frozenset({"aten.equal", "aten.allclose", "aten.eq", "aten.isnan", "aten.isinf"})
_CARRYING = frozenset({"view", "reshape", "squeeze", "unsqueeze", "select", "_to_copy", "to", "clone", "detach"})


def is_question(func: torch._ops.OpOverload) -> bool:
    """Whether `func` gives a plain value, and what it gives depends on data."""
    return torch.Tag.data_dependent_output in func.tags or func is aten.is_nonzero.default


def likely(func: torch._ops.OpOverload, operand: Tensor, node: fx.Node | None) -> Value:
    """What is made up first: that things differ and are finite; otherwise yes, or one."""
    if func in (aten.equal.default, aten.allclose.default):
        return False
    if func is aten.is_nonzero.default or operand.dtype == torch.bool:
        return _is_likely(node)
    return 1.0 if operand.dtype.is_floating_point else 1


def _is_likely(node: fx.Node | None) -> bool:
    """Of yes or no, by the comparison that it comes from. That some of many are equal is likely."""
    truth, some = True, False
    while node is not None and node.op == "call_function":
        name = op_name(node)
        short = name.removeprefix("aten.")
        if name in _SAME:
            return truth is (some and name == "aten.eq")
        if short in ("logical_not", "bitwise_not"):
            truth = not truth
        elif short == "any":
            some = True
        elif short != "all" and short not in _CARRYING:
            break
        node = next(iter(node.all_input_nodes), None)
    return truth


def alternatives(value: Value) -> tuple[Value, ...]:
    """Other answers than `value`, in the order in which they are tried."""
    if isinstance(value, bool):
        return (not value,)
    others: tuple[Value, ...] = _NUMBERS if isinstance(value, float) else tuple(range(_INTEGERS))
    return tuple(other for other in others if other != value)


class Reads:
    """How many different reads of parameters a growing graph holds: a loop that goes round adds none."""

    def __init__(self, graph: fx.Graph) -> None:
        self._graph = graph
        self._last: fx.Node | None = None
        self._numbers: dict[fx.Node, int] = {}
        self._known: dict[object, int] = {}

    def count(self) -> int:
        """Of the graph as it is now."""
        node = next(iter(self._graph.nodes), None) if self._last is None else self._last.next
        while node is not None and node.op != "root":
            self._enter(node)
            self._last, node = node, node.next
        return len(self._known)

    def _enter(self, node: fx.Node) -> None:
        if "param" in node.meta:
            self._numbers[node] = -len(self._numbers) - 1
            return
        operands = tuple(self._numbers.get(source) for source in node.all_input_nodes)
        if any(number is not None for number in operands):
            key = (id(node.target), operands, tuple(arg for arg in node.args if isinstance(arg, int)))
            number = self._known.setdefault(key, len(self._known))
            if None not in operands:  # made of parameters alone
                self._numbers[node] = number


class EndlessError(RuntimeError):
    """A loop that no answer ends."""


class SlowError(RuntimeError):
    """A trace that takes too long."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked somewhere for the first time: the answer that it got, and whether that is the truth.

    What was `drawn` at random may have had another answer when it was asked again.
    """

    site: Site
    value: Value
    known: bool
    drawn: bool = False

    @property
    def others(self) -> tuple[Value, ...]:
        """Answers to be given there every time, in the order in which they are tried."""
        return (*alternatives(self.value), self.value) if self.drawn else alternatives(self.value)


@dataclass(slots=True)
class _Count:
    asked: int = 0
    rounds: int = 0
    reads: int = -1


@dataclass(slots=True)
class Answers:
    """The answers of one trace. `chosen` has those that are to be given whatever is likely, or true."""

    chosen: Mapping[Site, Value] = field(default_factory=dict)
    patience: int = PATIENCE
    most: int = sys.maxsize  # nodes that the trace may have
    draw: int = 0  # which numbers Python and NumPy draw
    drew: bool = False  # whether they were asked for any
    asked: dict[Site, Asked] = field(default_factory=dict)
    last: Site | None = None
    tired: bool = False  # what was made up last is another answer than the first there
    _counts: dict[Site, _Count] = field(default_factory=dict)

    @property
    def made_some_up(self) -> bool:
        """Whether any answer isn't known to be true."""
        return any(not asked.known for asked in self.asked.values())

    def made_up(self, site: Site, first: Value, reads: int) -> Value:
        """The answer to a question whose answer isn't known. `reads`: how much of the model has been read so far.

        EndlessError if it won't stop asking.
        """
        return self._in_turn(site, self._asked(site, first, known=False), reads)

    def known(self, site: Site, truth: Value, certain: bool, reads: Reads) -> Value:
        """The answer to a question whose answer is known: the truth, unless another was chosen.

        A truth that isn't `certain` was drawn at random: another answer would be as true.
        """
        answer = self._asked(site, truth, certain, drawn=not certain)
        return answer if site not in self.chosen else self._in_turn(site, answer, reads.count())

    def _in_turn(self, site: Site, base: Value, reads: int) -> Value:
        count = self._counts.setdefault(site, _Count())
        count.rounds = count.rounds + 1 if reads <= count.reads else 0
        count.asked, count.reads = count.asked + 1, max(reads, count.reads)
        if count.rounds > _ENDLESS:
            raise EndlessError(f"{site.source or 'it'} keeps asking what depends on weights, whatever the answer")
        turns = max(count.rounds, count.asked - _ROUNDS) // self.patience
        self.last, self.tired = site, turns > 0
        if not turns:
            return base
        others = alternatives(base)
        return others[0] if len(others) == 1 else (base, *others)[turns % (len(others) + 1)]

    def _asked(self, site: Site, value: Value, known: bool, drawn: bool = False) -> Value:
        """The answer to give: what was chosen, if that answers this question."""
        chosen = self.chosen.get(site)
        value = chosen if chosen is not None and type(chosen) is type(value) else value
        self.asked.setdefault(site, Asked(site, value, known, drawn))
        return value
