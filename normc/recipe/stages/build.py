"""How a chain of stages becomes a row's graph of update ops, and how stages see a row's blocks as matrices."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

from torch import fx

from normc.errors import NormcError
from normc.plans.row import Row
from normc.recipe.stages.view import Fold, check_blocks, comb_of, fold_of
from normc.update.ops import arithmetic, matrices

Space = Literal["dual", "primal"]
BOTH: tuple[Space, ...] = ("dual", "primal")


class Builder:
    """A row's graph while its stages write it. `weight` and the states are the current values."""

    def __init__(self, row: Row) -> None:
        self.row = row
        self.graph = fx.Graph()
        self.weight = self._placeholder("w", "weight")
        self.grad = self._placeholder("g", "grad")
        self._states: dict[str, fx.Node] = {}
        self._numbers: dict[str, fx.Node] = {}

    def _placeholder(self, name: str, kind: str) -> fx.Node:
        last = next((node for node in reversed(self.graph.nodes) if node.op == "placeholder"), None)
        with self.graph.inserting_after(last):
            node = self.graph.placeholder(name)
        node.meta["kind"] = kind
        return node

    def state(self, name: str, kind: str = "like") -> fx.Node:
        """The current value of a tensor kept per parameter: shaped "like" it, a "count", or as said ("3x64").

        Of kind "grad" it is the parameter's gradient itself, which is then never zeroed.
        """
        if name not in self._states:
            self._states[name] = self._placeholder(name, "state")
            self._states[name].meta["state"] = kind
        return self._states[name]

    def average(self, name: str) -> fx.Node:
        """`state` like the parameter that averages gradients or steps, signs and all: 8 bits may be enough for it. What
        is divided by, as an average of squares, isn't one: an entry that rounding makes zero would blow up the step.
        """
        node = self.state(name)
        if node.op == "placeholder":
            node.meta["average"] = True
        return node

    def keep(self, name: str, value: fx.Node) -> fx.Node:
        """Set the new value of a state."""
        self._states[name] = value
        return value

    def states(self) -> tuple[str, ...]:
        """Names of the states so far."""
        return tuple(self._states)

    def number(self, name: str) -> fx.Node:
        """A value of the parameter's group, read at every step."""
        if name not in self._numbers:
            self._numbers[name] = self._placeholder(name, "number")
        return self._numbers[name]

    def decay(self, ratio: float = 1.0) -> dict[str, float]:
        """The keyword arguments of an op of weight decay: `ratio` times the row's own, left out where that is 1."""
        own = ratio * self.row.decay
        return {} if own == 1.0 else {"ratio": own}

    def call(self, name: str, op: Callable[..., object], *args: object, **kwargs: object) -> fx.Node:
        """Add an op; `name` is what the printed program calls its value."""
        return self.graph.create_node("call_function", op, args, kwargs, name)  # type: ignore[arg-type]  # fx's Argument

    def finish(self) -> fx.Graph:
        """The graph, returning the new weight and states."""
        self.graph.output((self.weight, *self._states.values()))
        self.graph.lint()
        return self.graph


class Stage(ABC):
    """One link of a chain.

    `takes` is where its direction may live: "dual" for gradients and what averages or preconditions them, "primal" for
    steps of the weights. `gives` is where its result lives; None for where it was.
    """

    takes: ClassVar[tuple[Space, ...]] = BOTH
    gives: ClassVar[Space | None] = None
    kind: ClassVar[str]

    @abstractmethod
    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """Add ops for `build.row` and return the new direction."""

    def ball(self, row: Row, group: Mapping[str, Any]) -> tuple[Any, ...] | None:
        """The radius, in the row's norm, of the ball that unit steps times the row's scale can't leave: one a block.

        `group` has the values of the row's parameter group; a radius is a number, or a tensor where the lr is one. None
        if the stage bounds nothing.
        """
        return None


def chain_of(row: Row, stages: tuple[Stage, ...]) -> fx.Graph:
    """The plain graph of one row. NormcError for stages that don't follow each other."""
    check_chain(stages)
    build = Builder(row)
    direction = build.grad
    for stage in stages:
        direction = stage.emit(build, direction)
    return build.finish()


def check_chain(stages: tuple[Stage, ...]) -> None:
    """NormcError where a stage takes what the one before it doesn't give: a gradient is no step of the weights."""
    space: Space = "dual"
    for before, stage in zip((None, *stages), stages, strict=False):
        if space not in stage.takes:
            given = type(before).__name__ if before is not None else "the gradient"
            fix = "put a norm or a scale between" if space == "dual" else "put it before the norm"
            raise NormcError(f"{type(stage).__name__} can't follow {given}, which is {space}", fix)
        space = stage.gives or space


def scaled(build: Builder, direction: fx.Node, factor: float) -> fx.Node:
    """The direction times a number. Also times one: rows that differ in this number alone share a stack."""
    return build.call("s", arithmetic.scale, direction, factor=factor)


Unit = Callable[[Builder, fx.Node, Fold], fx.Node]


def blockwise(
    build: Builder, direction: fx.Node, unit: Unit, shape: str, factors: tuple[float, ...], apart: bool
) -> fx.Node:
    """`unit` of the row as matrices [N * blocks, out, in], viewed back, times `factors` (one, or one a block).

    shape   of what `unit` wants: "entries" for any, "whole" for a flat view, "slices" for each place of a window by
            itself, else matrices.
    apart   whether the row's blocks are to be seen one by one.
    """
    row = build.row
    check_blocks(row)
    if not apart or not row.blocks:
        return scaled(build, _whole(build, direction, unit, shape, row.shape), factors[0])
    factors = factors * (len(row.blocks) if len(factors) == 1 else 1)
    comb = comb_of(row.blocks) if len(set(factors)) == 1 else None
    if comb is not None and shape != "entries":
        fold = fold_of(row, row.shape, comb, shape == "slices")
        view = {"sizes": fold.sizes, "order": fold.order, "shape": fold.shape}
        x = build.call("x", matrices.fold, direction, **view)
        step = build.call("y", matrices.unfold, unit(build, x, fold), **view, parameter=row.shape)
        return scaled(build, step, factors[0])
    axis, steps = row.blocks[0].axis, []
    for block, factor in zip(row.blocks, factors, strict=True):
        own = build.call("b", matrices.take, direction, axis=axis, spans=block.spans)
        part = (*row.shape[:axis], block.size, *row.shape[axis + 1 :])
        steps.append(scaled(build, _whole(build, own, unit, shape, part), factor))
    spans = tuple(block.spans for block in row.blocks)
    return build.call("y", matrices.place, steps, axis=axis, spans=spans)


def _whole(build: Builder, direction: fx.Node, unit: Unit, shape: str, size: tuple[int, ...]) -> fx.Node:
    fold = fold_of(build.row, size, slices=shape == "slices")
    if shape == "entries" or (shape == "whole" and fold.shape[0] == 1) or fold.plain:
        return unit(build, direction, fold)
    view = {"sizes": fold.sizes, "order": fold.order, "shape": fold.shape}
    x = build.call("x", matrices.fold, direction, **view)
    return build.call("y", matrices.unfold, unit(build, x, fold), **view, parameter=size)


def seen_alike(build: Builder, view: fx.Node, source: fx.Node, other: fx.Node) -> fx.Node:
    """`other` through the views by which `view` was made of `source`."""
    if view is source:
        return other
    (before,) = view.all_input_nodes
    assert callable(view.target)
    return build.call("x", view.target, seen_alike(build, before, source, other), *view.args[1:], **view.kwargs)


def folds(row: Row, shape: str, apart: bool) -> list[Fold]:
    """The folds that `blockwise` gives its `unit`, in order: for the sizes of states kept a matrix."""
    slices = shape == "slices"
    if not apart or not row.blocks:
        return [fold_of(row, row.shape, slices=slices)]
    if (comb := comb_of(row.blocks)) is not None and len(set(row.scale.per_block)) == 1:
        return [fold_of(row, row.shape, comb, slices)]
    axis = row.blocks[0].axis
    shapes = [(*row.shape[:axis], block.size, *row.shape[axis + 1 :]) for block in row.blocks]
    return [fold_of(row, shape, slices=slices) for shape in shapes]
