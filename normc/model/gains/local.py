"""What a gain rule sees and says."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import fx

from normc.model.ops.value import Value
from normc.model.trace.graph import shape_of
from normc.nodes import op_name
from normc.plans.convention import Convention
from normc.registry import Registry


@dataclass(frozen=True, slots=True)
class Model:
    """How local gains become global ones.

    modula, sharp   every activation has norm 1 and gains add along paths (p = 1), as in Modula (2405.14813); `modula`
                    has the activations' gains of the paper's package (relu 1/sqrt 2), `sharp` the largest slopes.
    average         activations have the sizes that the graph gives them, norms divide by them, and the contributions of
                    different paths are taken to be independent (p = 2).
    """

    convention: Convention

    @property
    def nominal(self) -> bool:
        """Whether every activation counts as of size 1."""
        return self.convention != "average"

    @property
    def p(self) -> int:
        """Order of the sum over paths."""
        return 1 if self.nominal else 2


class Size(NamedTuple):
    """An activation's entries: their mean and RMS.

    `sign` is 1 or -1 if none has the other sign; `simplex` if they are probabilities along the last dimension.
    """

    rms: float
    mean: float = 0.0
    sign: int = 0
    simplex: bool = False

    @property
    def deviation(self) -> float:
        """Standard deviation."""
        ratio = self.mean / self.rms if self.rms else 0.0
        return self.rms * math.sqrt(max(1.0 - ratio * ratio, 0.0))


class Back(NamedTuple):
    """A use of an operand: RMS of the result's change for a change of RMS 1; nan if that isn't known.

    `weak`: only what steers an average (a query through its softmax); where another way leads to the output, it doesn't
    count. `why` says what the gain is, where that isn't plain.
    """

    operand: fx.Node
    gain: float
    weak: bool = False


class Local(NamedTuple):
    """One op's result size (of each of its results alike) and the gains from its operands; `how` it was found.

    `joint`: its operands had to be drawn together, and so their gains can't be told apart from those before them.
    """

    size: Size
    back: tuple[Back, ...]
    how: Literal["rule", "probe"] = "rule"
    joint: bool = False


class TailsError(LookupError):
    """Two moments say too little: the result would be made by a few entries of a Gaussian that may not be there."""


class Draws(Protocol):
    """Values of nodes, drawn together."""

    def of(self, node: fx.Node) -> Any:
        """A node's value. LookupError if it can't be had."""

    def shrunk(self, factor: float) -> Draws:
        """Another draw, all of whose beginnings are so much smaller."""


UNIT = Size(1.0)
MASKED = 1e3  # a constant this large in a sum is there to hide entries


@dataclass(frozen=True, slots=True)
class At:
    """One call: its operands' sizes, what kind each operand is, and whether a weight's product happens here.

    `weights`: look at the weights among the operands instead of the activations. `tables`: parameters that have RMS 1
    where they are added (positions, tokens); a bias starts at nothing. `samples`: draws of the operands, where asked
    for. `mixed`: weights that activations have a part in (a modulated filter): their entries count, as activations' do.
    """

    node: fx.Node
    model: Model
    sizes: Mapping[fx.Node, Size | None]
    values: Mapping[fx.Node, Any]
    product: bool
    weights: bool = False
    tables: frozenset[str] = frozenset()
    samples: Draws | None = None
    mixed: Set[fx.Node] = frozenset()

    @property
    def name(self) -> str:
        """`mul` for aten.mul and aten.mul_."""
        return op_name(self.node).rsplit(".", 1)[-1].rstrip("_")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the (first) result."""
        return shape_of(self.node)

    def kind(self, operand: object) -> str:
        """What an operand is, weight, data or constant; "" for what is no tensor."""
        if not isinstance(operand, fx.Node):
            return ""
        if operand in self.mixed:
            return "data"
        value = self.values.get(operand)
        first = value[0] if isinstance(value, (list, tuple)) and value else value
        return first.kind if isinstance(first, Value) else "constant"

    @property
    def data(self) -> list[fx.Node]:
        """The operands that are floating-point activations, once for each place."""
        found: list[fx.Node] = []
        wanted = "weight" if self.weights else "data"

        def take(node: fx.Node) -> fx.Node:
            if self.kind(node) == wanted and floats(node):
                found.append(node)
            return node

        fx.node.map_arg((self.node.args, self.node.kwargs), take)
        return found

    def size(self, operand: fx.Node) -> Size:
        """An operand's size. LookupError where it isn't known: the result's isn't either."""
        if self.model.nominal:
            return UNIT
        found = self.sizes.get(operand, UNIT)
        if found is None:
            raise LookupError(operand.name)
        return found

    def rms(self, operand: object) -> float:
        """RMS of any operand."""
        return self.any_size(operand).rms

    def any_size(self, operand: object) -> Size:
        """Of an activation as tracked, of a constant as it is if known, of a weight 1 unless a function made it."""
        if isinstance(operand, (int, float)):
            return number(operand)
        assert isinstance(operand, fx.Node)
        kind = self.kind(operand)
        if kind == "weight" and self.node in self.mixed and operand not in self.sizes:
            return entry(operand)
        return self.size(operand) if kind != "constant" else constant(operand) or UNIT

    def added(self, operand: object) -> Size | None:
        """What an operand adds to a sum; None for nothing: a bias, a mask, a constant that isn't known."""
        if isinstance(operand, (int, float)):
            return number(operand)
        if not isinstance(operand, fx.Node) or not floats(operand):
            return None
        if self.kind(operand) == "data":
            return self.size(operand)
        if self.kind(operand) == "weight":
            value = self.values[operand]
            table = isinstance(value, Value) and value.parameters and value.parameters <= self.tables
            return self.any_size(operand) if table or self.node in self.mixed else None
        size = constant(operand)
        return size if size is not None and size.rms < MASKED else None

    def passing(self, gain: float = 1.0, size: Size | None = None) -> Local:
        """All activations go through with one gain; the result has the first one's size times the gain, or `size`."""
        data = self.data
        if size is None:
            size = scaled(self.size(data[0]), gain) if data else UNIT
        return Local(size, tuple(Back(operand, gain) for operand in data))


def entry(weight: fx.Node) -> Size:
    """Entries of a weight that keeps the RMS of what it sums: 1 / sqrt(fan-in) of a matrix, 1 of a vector."""
    shape = [size for size in shape_of(weight) if size != 1]
    return Size(math.prod(shape[1:]) ** -0.5) if len(shape) > 1 else UNIT


def scaled(size: Size, factor: float) -> Size:
    """The size of a multiple."""
    sign = size.sign if factor > 0 else -size.sign
    return Size(size.rms * abs(factor), size.mean * factor, sign, size.simplex and factor == 1.0)


def constant(node: fx.Node) -> Size | None:
    """Size of a constant whose value is known."""
    value = node.meta.get("concrete")
    if isinstance(value, (int, float)):
        return number(value)
    if isinstance(value, torch.Tensor) and value.numel() and not value.dtype.is_complex:
        entries = value.double()
        return Size(float(entries.square().mean().sqrt()), float(entries.mean()), sign_of(entries))
    return None


def number(value: float) -> Size:
    """Size of a number."""
    return Size(abs(float(value)), float(value), (value > 0) - (value < 0))


def sign_of(entries: torch.Tensor) -> int:
    """1 if none is negative, -1 if none is positive, 0 otherwise."""
    if entries.numel() == 0:
        return 0
    low, high = torch.aminmax(entries)
    return int(bool(low >= 0)) - int(bool(high <= 0))


def floats(node: fx.Node) -> bool:
    """Whether a node's (first) value is floating-point."""
    value = node.meta.get("val")
    first = value[0] if isinstance(value, (tuple, list)) and value else value
    return isinstance(first, torch.Tensor) and (first.dtype.is_floating_point or first.dtype.is_complex)


def together(sizes: Iterable[Size]) -> Size:
    """The size of a sum of independent parts."""
    parts = list(sizes)
    mean = sum(part.mean for part in parts)
    signs = {part.sign for part in parts}
    sign = signs.pop() if len(signs) == 1 else 0
    return Size(math.sqrt(sum(part.deviation**2 for part in parts) + mean**2), mean, sign)


Gain = Callable[[At], Local]
gains: Registry[Gain] = Registry("gain rule", "normc.model.gains")


def gain(*names: str) -> Callable[[Gain], Gain]:
    """Register a function as the gain rule of these ops (`aten.linear`); in-place forms share it."""
    return gains.register(*names)


def gain_of(node: fx.Node) -> Gain | None:
    """The rule of a node's op: by its name, or by its name without the in-place underscore."""
    name = op_name(node)
    return gains.find(name) or gains.find(name.rstrip("_"))
