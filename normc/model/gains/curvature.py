"""Second order: how far an op's result bends, and how bounds on second derivatives go through a graph (THEORY A5).

With D for first and D2 for second derivatives, v = f(u_1 .. u_k) has

    Dv = sum_i f_i Du_i        D2v = sum_i f_i D2u_i + sum_ij f_ij Du_i Du_j

so a node needs five numbers: bounds on its derivatives by the weights (in the modular norm of the whole model) and by
the inputs, and alpha, beta, gamma on the second ones. Gains bound f_i, the rules registered here bound f_ij. A weight
is an operand like any other, and its product with an activation a bilinear op. On series-parallel graphs the sums are
Modula's recursion (Large et al., arXiv 2405.14813), whose mass fractions and sensitivities the modular norm holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

from torch import fx

from normc.model.gains.local import At, Local
from normc.nodes import op_name
from normc.registry import Registry


class Bound(NamedTuple):
    """Of a node: the size of its first derivatives by weights and by inputs, and of its second ones.

    alpha: by weights twice; beta: by weights and inputs; gamma: by inputs twice.
    """

    weights: float = 0.0
    inputs: float = 0.0
    alpha: float = 0.0
    beta: float = 0.0
    gamma: float = 0.0

    @property
    def still(self) -> bool:
        """Whether neither weights nor inputs move it."""
        return not any(self)


class Bend(NamedTuple):
    """A bound on the second derivative by two operands, in that order: two that differ make two entries."""

    first: fx.Node
    second: fx.Node
    bound: float


Curvature = Callable[[At, Local], Iterable[Bend]]
curvatures: Registry[Curvature] = Registry("curvature rule", "normc.model.gains")


def curvature(*names: str) -> Callable[[Curvature], Curvature]:
    """Register a function as the curvature rule of these ops; LookupError in it says that an op has no bound."""
    return curvatures.register(*names)


def curvature_of(node: fx.Node) -> Curvature | None:
    """The rule of a node's op: by its name, or by its name without the in-place underscore."""
    name = op_name(node)
    return curvatures.find(name) or curvatures.find(name.rstrip("_"))


def through(operands: Iterable[tuple[float, Bound]], bends: Iterable[tuple[float, Bound, Bound]]) -> Bound:
    """A result's bounds from (gain, bound) of every operand and (bound of the second derivative, first, second)."""
    parts, pairs = list(operands), list(bends)
    first = [math.fsum(gain * part[place] for gain, part in parts) for place in range(5)]
    curved = (
        math.fsum(bound * one.weights * other.weights for bound, one, other in pairs),
        math.fsum(bound * one.weights * other.inputs for bound, one, other in pairs),
        math.fsum(bound * one.inputs * other.inputs for bound, one, other in pairs),
    )
    return Bound(*first[:2], *(mine + more for mine, more in zip(first[2:], curved, strict=True)))


def meeting(operand: Bound, step: float) -> Bound:
    """What a weight adds to its product with an operand, for a step of norm `step`: Modula's (0, 1, 0) atom."""
    weight = Bound(weights=step)
    return through([(1.0, weight)], [(1.0, weight, operand), (1.0, operand, weight)])
