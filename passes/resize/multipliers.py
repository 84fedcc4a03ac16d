"""Numbers on a residual stream or its branches that say how many blocks there are: 1/L, 1 - 1/L, 1/√L and the like.

L may be the number of blocks or of branches. Two numbers of one addition are read together: 1 - 1/L with 1/L.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from torch import fx

from normc.nodes import op_name
from normc.passes.analyses.flow import Flow, Join
from normc.passes.resize.repeat import Stack

_CLOSE = 1e-9
_FORMS: Mapping[str, Callable[[float], float]] = {
    "1/{}": lambda n: 1 / n,
    "1/√({})": lambda n: n**-0.5,
    "1 - 1/{}": lambda n: 1 - 1 / n,
    "√(1 - 1/{})": lambda n: math.sqrt(1 - 1 / n),
}
_BRANCH, _STREAM = ("1/{}", "1/√({})"), ("1 - 1/{}", "√(1 - 1/{})")


class Multiplier(NamedTuple):
    """The number in argument `place` (or the keyword "alpha") of `node`: `form` of `times` L. `inverse`: it divides."""

    node: fx.Node
    place: int | str
    form: str
    times: int
    inverse: bool

    def at(self, length: int) -> float:
        """The number with so many blocks."""
        found = _FORMS[self.form](self.times * length)
        return 1 / found if self.inverse else found

    def words(self) -> str:
        """How it is read: `1 - 1/(2 n_layer)`."""
        many = f"{self.times} n_layer" if self.times > 1 else "n_layer"
        inside = f"({many})" if self.times > 1 and "(" not in self.form else many
        return self.form.format(inside)


class _Number(NamedTuple):
    node: fx.Node
    place: int | str
    given: float
    inverse: bool

    @property
    def value(self) -> float:
        return 1 / self.given if self.inverse and self.given else self.given


def multipliers(stack: Stack, flow: Flow) -> tuple[list[Multiplier], list[str]]:
    """What depends on the stack's length, and notes on how each kind of number was read."""
    inside = {node for window in stack.windows for node in window}
    joins = [join for join in flow.joins if join.node in inside]
    if not joins:
        return [], []
    each = max(round(len(joins) / len(stack.repeating)), 1)
    found: list[Multiplier] = []
    notes: dict[tuple[float, str], str] = {}
    for join in joins:
        stream, branch = _numbers(join)
        if len(stream) > 1 or len(branch) > 1:
            continue
        for number, reading, others in _read(stream, branch, stack.length, dict.fromkeys((each, 1, 2))):
            found.append(Multiplier(number.node, number.place, *reading, number.inverse))
            where = f" ({number.node.meta['source']})" if number.node.meta.get("source") else ""
            besides = f", not for {others}" if others else ""
            notes.setdefault((number.given, found[-1].words() + besides), where)
    said = [
        f"the residual multiplier {given:.6g}{where} is taken for {words}" for (given, words), where in notes.items()
    ]
    return found, said


def _read(
    stream: list[_Number], branch: list[_Number], length: int, times: Iterable[int]
) -> Iterable[tuple[_Number, tuple[str, int], str]]:
    """Each number with its form, and what else it could have been."""
    a, b = (stream[0].value if stream else 1.0), (branch[0].value if branch else 1.0)
    squares = not math.isclose(a + b, 1, abs_tol=_CLOSE) and math.isclose(a * a + b * b, 1, abs_tol=_CLOSE)
    sides: tuple[tuple[list[_Number], tuple[str, ...]], ...] = ((stream, _STREAM), (branch, _BRANCH))
    for number, forms in sides:
        if not number:
            continue
        if stream and math.isclose(a + b, 1, abs_tol=_CLOSE):
            forms = forms[:1]
        elif stream and squares:
            forms = forms[1:]
        fits = [
            (form, many) for form in forms for many in times
            if many * length > 1 and math.isclose(_FORMS[form](many * length), number[0].value, rel_tol=_CLOSE)
        ]  # fmt: skip
        if fits:
            rest = [Multiplier(number[0].node, 0, *fit, False).words() for fit in fits[1:]]
            yield number[0], fits[0], " or ".join(rest)


def _numbers(join: Join) -> tuple[list[_Number], list[_Number]]:
    """Numbers that multiply the stream and the branch on their way into the addition."""
    sides: tuple[list[_Number], list[_Number]] = ([], [])
    for place, end in enumerate(join.node.args[:2]):
        if not isinstance(end, fx.Node):
            continue
        found = []
        alpha = join.node.kwargs.get("alpha")
        if place == 1 and isinstance(alpha, (int, float)) and alpha != 1:
            found.append(_Number(join.node, "alpha", float(alpha), False))
        at = end
        while (number := _scaling(at)) is not None:
            found.append(number)
            (at,) = at.all_input_nodes
        sides[0 if at is join.stream else 1].extend(found)
    return sides


def _scaling(node: fx.Node) -> _Number | None:
    """The number that a node multiplies or divides by, if that is all it does."""
    name = op_name(node).rstrip("_")
    if name not in ("aten.mul", "aten.div") or len(node.args) != 2 or len(node.all_input_nodes) != 1:
        return None
    place = 1 if isinstance(node.args[0], fx.Node) else 0
    given: Any = node.args[place]
    if not isinstance(given, (int, float)) or not given or (name == "aten.div" and place == 0):
        return None
    return _Number(node, place, float(given), name == "aten.div")


def rewritten(found: Iterable[Multiplier], nodes: Mapping[fx.Node, fx.Node], length: int) -> None:
    """Put the numbers for another length into the nodes that stand for the found ones."""
    for multiplier in found:
        node = nodes[multiplier.node]
        if isinstance(multiplier.place, str):
            node.kwargs = {**node.kwargs, multiplier.place: multiplier.at(length)}
        else:
            args = list(node.args)
            args[multiplier.place] = multiplier.at(length)
            node.args = tuple(args)
