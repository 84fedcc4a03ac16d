"""Kronecker preconditioners: a factor for each side of a row's matrices, in each block apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

from torch import fx

from normc.plans.row import Row
from normc.recipe.stages.build import Builder
from normc.recipe.stages.late import LateAdam, counted
from normc.recipe.stages.precondition import Preconditioner
from normc.recipe.stages.view import Fold, check_blocks, comb_of, fold_of
from normc.update.ops import kronecker, late, matrices

Sides = Literal["one", "two"]


class Part(NamedTuple):
    """What is seen at once of a row: all of it, or a block that is not like the others."""

    fold: Fold
    suffix: str = ""
    axis: int = 0
    spans: tuple[tuple[int, int], ...] = ()

    @property
    def view(self) -> tuple[tuple[int, ...], ...]:
        """The argument of list ops."""
        where = (self.axis, *(end for span in self.spans for end in span)) if self.spans else ()
        return (self.fold.sizes, self.fold.order, self.fold.shape, where)

    def size(self, turned: bool) -> int:
        """How long a side is, that of fan-in if `turned`."""
        return self.fold.shape[2 if turned else 1]


def parts_of(row: Row) -> tuple[Part, ...]:
    """A row's matrices. NormcError for blocks that overlap."""
    check_blocks(row)
    if not row.blocks:
        return (Part(fold_of(row, row.shape)),)
    if (comb := comb_of(row.blocks)) is not None:
        return (Part(fold_of(row, row.shape, comb)),)
    axis = row.blocks[0].axis
    found = []
    for index, block in enumerate(row.blocks):
        shape = (*row.shape[:axis], block.size, *row.shape[axis + 1 :])
        found.append(Part(fold_of(row, shape), f"_{index}", axis, block.spans))
    return tuple(found)


def is_matrix(row: Row) -> bool:
    """Whether any of a row's blocks has more than one row and more than one column."""
    return any(min(part.fold.shape[1:]) > 1 for part in parts_of(row))


def sides_of(part: Part, sides: Sides, largest: int) -> tuple[bool, ...]:
    """The sides of its matrices that get a factor, as `turned`: those of more than one entry, and at most `largest`.

    Of "one", the shorter.
    """
    fits = [turned for turned in (False, True) if 1 < part.size(turned) <= largest]
    return tuple(fits) if sides == "two" else tuple(sorted(fits, key=part.size)[:1])


Unit = Callable[[Builder, fx.Node, Part], fx.Node]


def partwise(build: Builder, direction: fx.Node, parts: tuple[Part, ...], unit: Unit) -> fx.Node:
    """`unit` of each part as matrices [N * B, out, in], viewed back."""
    if not parts[0].spans:
        return _seen(build, direction, parts[0], build.row.shape, unit)
    axis, found = parts[0].axis, []
    for part in parts:
        size = sum(stop - start for start, stop in part.spans)
        own = build.call("b", matrices.take, direction, axis=axis, spans=part.spans)
        shape = (*build.row.shape[:axis], size, *build.row.shape[axis + 1 :])
        found.append(_seen(build, own, part, shape, unit))
    return build.call("y", matrices.place, found, axis=axis, spans=tuple(part.spans for part in parts))


def _seen(build: Builder, x: fx.Node, part: Part, shape: tuple[int, ...], unit: Unit) -> fx.Node:
    fold = part.fold
    if fold.plain:
        return unit(build, x, part)
    view: dict[str, Any] = {"sizes": fold.sizes, "order": fold.order, "shape": fold.shape}
    seen = build.call("x", matrices.fold, x, **view)
    return build.call("y", matrices.unfold, unit(build, seen, part), **view, parameter=shape)


class Side(NamedTuple):
    """One side of a part's matrices: that of fan-in if `turned`."""

    part: Part
    turned: bool

    @property
    def size(self) -> int:
        """How long it is."""
        return self.part.size(self.turned)

    def state(self, kind: str, axes: int) -> tuple[str, str]:
        """The name of a state of this side, and its shape: the number of matrices, and so many axes of its size."""
        shape = (self.part.fold.shape[0], *[self.size] * axes)
        return f"{kind}_{'in' if self.turned else 'out'}{self.part.suffix}", "x".join(map(str, shape))


Bases = dict[Side, fx.Node]


def into(bases: Bases, back: bool) -> Unit:
    """What turns a part's matrices into the bases of its sides, or `back`."""

    def unit(build: Builder, x: fx.Node, part: Part) -> fx.Node:
        for side, basis in bases.items():
            if side.part == part:
                x = build.call("x", kronecker.rotate, x, basis, turned=side.turned, back=back)
        return x

    return unit


def _factor(build: Builder, side: Side, beta: fx.Node | float) -> fx.Node:
    name, shape = side.state("factor", 2)
    seen: dict[str, Any] = {"turned": side.turned, "view": side.part.view}
    return build.keep(name, build.call("a", kronecker.gram, build.state(name, shape), build.grad, beta, **seen))


@dataclass(frozen=True, slots=True)
class Kron(Preconditioner):
    """Shampoo's direction L^-p d R^-p for the factors L = sum g g^T and R = sum g^T g; averages where `beta2` isn't 1.

    A matrix with one factor gets L^-1/2 d or d R^-1/2: for vectors, the whole matrix of AdaGrad. A row that has none,
    or a block with none, gets AdaGrad entry by entry.

    power    p, for matrices with both factors.
    trace    whether these are multiplied by the root of the trace of L.
    every    steps from one computation of the roots to the next, the first step being one; trace and eps included.
    sides    "two", or "one": the shorter.
    largest  the longest side that gets a factor.
    """

    power: float = 0.25
    trace: bool = False
    every: int = 1
    sides: Sides = "two"
    largest: int = 10000

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """The group's `beta2` and `eps`; factors are of the gradient itself, whatever came before this stage."""
        parts = parts_of(build.row)
        if not all(self._sides(part) for part in parts):
            squares = build.call("v", late.squares, build.state("sum_sq"), build.grad, build.number("beta2"))
            return build.call("d", late.adagrad, direction, build.keep("sum_sq", squares), build.number("eps"))
        step = counted(build)
        sides = [Side(part, turned) for part in parts for turned in self._sides(part)]
        return partwise(build, direction, parts, into({side: self._root(build, step, side) for side in sides}, False))

    def _sides(self, part: Part) -> tuple[bool, ...]:
        return sides_of(part, self.sides, self.largest)

    def _root(self, build: Builder, step: fx.Node, side: Side) -> fx.Node:
        both = len(self._sides(side.part)) == 2
        factor = _factor(build, side, build.number("beta2"))
        name, shape = side.state("root", 2)
        power, trace = self.power if both else 0.5, self.trace and both and not side.turned
        kwargs: dict[str, Any] = {"every": self.every, "power": power, "trace": trace}
        root = build.call("p", kronecker.root, build.state(name, shape), factor, step, build.number("eps"), **kwargs)
        return build.keep(name, root)


@dataclass(frozen=True, slots=True)
class Rotate(LateAdam):
    """Adam in the eigenbases of Shampoo's factors, which are refreshed every so many steps.

    The first step makes the bases of its gradient and moves nothing, so that no gradient is seen in a basis of its
    own. The average gradient is kept rotated, and follows a refreshed basis; the average squares only follow the order
    of its columns. What has no factor gets `LateAdam`.

    every    steps from one refreshment to the next.
    beta     the average of factors; None for the group's `beta2`.
    sides    "two", or "one": the shorter.
    largest  the longest side that is rotated.
    """

    sorts: ClassVar[bool] = True  # whether refreshed columns are sorted by their eigenvalues

    every: int = 10
    beta: float | None = None
    sides: Sides = "two"
    largest: int = 10000

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """Q Adam(Q^T g P) P^T, by the group's `momentum` and `beta2`; factors are of the gradient itself."""
        parts = parts_of(build.row)
        sides = self.rotated(parts)
        if not sides:
            return LateAdam.emit(self, build, direction)
        step = counted(build)
        bases = {side: build.state(*side.state("basis", 2)) for side in sides}
        factors = self.factors(build, step, bases)
        if len({side.part for side in sides}) < len(parts):  # a part that isn't rotated doesn't vanish by itself
            direction = build.call("d", late.later, direction, step)
        direction = self.divided(build, partwise(build, direction, parts, into(bases, back=False)))
        direction = self.sized(build, partwise(build, direction, parts, into(bases, back=True)), step)
        self._refresh(build, step, factors, bases)
        return direction

    def rotated(self, parts: tuple[Part, ...]) -> list[Side]:
        """The sides of a row's parts that have a basis."""
        return [Side(part, turned) for part in parts for turned in sides_of(part, self.sides, self.largest)]

    def decay(self, build: Builder) -> fx.Node | float:
        """What the averages of factors keep."""
        return build.number("beta2") if self.beta is None else self.beta

    def factors(self, build: Builder, step: fx.Node, bases: Bases) -> Bases:
        """Update the factors of sides, and return them."""
        return {side: _factor(build, side, self.decay(build)) for side in bases}

    def _refresh(self, build: Builder, step: fx.Node, factors: Bases, bases: Bases) -> None:
        first, second = build.state("exp_avg"), build.state("exp_avg_sq")
        for side, basis in bases.items():
            seen: dict[str, Any] = {"every": self.every, "turned": side.turned, "view": side.part.view}
            first = build.call("m", kronecker.turn, first, basis, step, back=True, **seen)
            if self.sorts:
                second = build.call("v", kronecker.reorder, second, basis, factors[side], step, **seen)
        for side, basis in self.refreshed(build, step, factors, bases).items():
            seen = {"every": self.every, "turned": side.turned, "view": side.part.view}
            first = build.call("m", kronecker.turn, first, basis, step, back=False, **seen)
        build.keep("exp_avg", first)
        build.keep("exp_avg_sq", second)

    def refreshed(self, build: Builder, step: fx.Node, factors: Bases, bases: Bases) -> Bases:
        """Refresh the bases of sides where it is time, and return them."""
        found = {}
        for side, basis in bases.items():
            basis = build.call("q", kronecker.basis, basis, factors[side], step, every=self.every, sort=self.sorts)
            found[side] = build.keep(side.state("basis", 2)[0], basis)
        return found
