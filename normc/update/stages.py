"""What a recipe chains: a moment turns gradients into a direction, a norm a direction into a unit step, a scale sets
its size, a decay bounds the weights, and a last one applies it. Each adds its ops to a row's graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import fx

from normc.plans.geometry import Norm, norms
from normc.plans.row import Row
from normc.update import arithmetic, matrices
from normc.update.view import Fold, blocks_matter, check_blocks, comb_of, fold_of

Polynomials = tuple[tuple[float, float, float], ...]


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
        """The current value of a tensor kept per parameter: shaped "like" it, a "count", or as said ("3x64")."""
        if name not in self._states:
            self._states[name] = self._placeholder(name, "state")
            self._states[name].meta["state"] = kind
        return self._states[name]

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

    def call(self, name: str, op: Callable[..., object], *args: object, **kwargs: object) -> fx.Node:
        """Add an op; `name` is what the printed program calls its value."""
        return self.graph.create_node("call_function", op, args, kwargs, name)  # type: ignore[arg-type]  # fx's Argument

    def finish(self) -> fx.Graph:
        """The graph, returning the new weight and states."""
        self.graph.output((self.weight, *self._states.values()))
        self.graph.lint()
        return self.graph


class Stage(Protocol):
    """One link of a chain."""

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """Add ops for `build.row` and return the new direction."""


@dataclass(frozen=True, slots=True)
class Ema:
    """The running average of gradients; the group's `momentum` is the share that stays."""

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """m <- momentum m + (1 - momentum) g; the direction is m."""
        state, momentum = build.state("momentum_buffer"), build.number("momentum")
        return build.keep("momentum_buffer", build.call("m", arithmetic.ema, state, direction, momentum))


@dataclass(frozen=True, slots=True)
class Nesterov:
    """The running average of gradients, looked at one step ahead."""

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """m <- momentum m + (1 - momentum) g; the direction is momentum m + (1 - momentum) g."""
        average = Ema().emit(build, direction)
        return build.call("d", arithmetic.nesterov, direction, average, build.number("momentum"))


@dataclass(frozen=True, slots=True)
class AdamDirection:
    """Adam's direction: the average gradient over the root of the average square, both without their start's bias."""

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """The group's `momentum` is Adam's first beta."""
        step, momentum, beta2 = build.state("step", "count"), build.number("momentum"), build.number("beta2")
        first, second = build.state("exp_avg"), build.state("exp_avg_sq")
        step = build.keep("step", build.call("t", arithmetic.count, step))
        first = build.keep("exp_avg", build.call("m", arithmetic.ema, first, direction, momentum))
        second = build.keep("exp_avg_sq", build.call("v", arithmetic.second_moment, second, direction, beta2))
        eps = build.number("eps")
        return build.call("d", arithmetic.adam_direction, first, second, step, momentum, beta2, eps)


@dataclass(frozen=True, slots=True)
class Radius:
    """The direction times the row's scale: for rules that are no norm's."""

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """Nothing is added for a scale of one."""
        return _scaled(build, direction, build.row.scale.value)


@dataclass(frozen=True, slots=True)
class Lmo:
    """The unit step of the row's norm, in each block apart, times the block's scale.

    `polynomials` are the steps of Newton-Schulz for the spectral norm; none means its exact form.
    """

    polynomials: Polynomials = ()

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """View as matrices where the norm is one of matrices, take the unit step, scale, and view back."""
        row, norm = build.row, norms[build.row.norm]
        check_blocks(row)
        factors = row.scale.per_block * (len(row.blocks) if len(row.scale.per_block) == 1 else 1)
        if not blocks_matter(row, norm):
            step = self._whole(build, direction, norm, row.shape)
            return _scaled(build, step, row.scale.value)
        comb = comb_of(row.blocks) if len(set(factors)) == 1 else None
        if comb is not None and norm.shape != "entries":
            fold = fold_of(row, row.shape, comb, norm.shape == "slices")
            view = {"sizes": fold.sizes, "order": fold.order, "shape": fold.shape}
            x = build.call("x", matrices.fold, direction, **view)
            step = build.call("y", matrices.unfold, self.unit(build, x, norm, fold), **view, parameter=row.shape)
            return _scaled(build, step, factors[0])
        axis, steps = row.blocks[0].axis, []
        for block, factor in zip(row.blocks, factors, strict=True):
            shape = (*row.shape[:axis], block.size, *row.shape[axis + 1 :])
            own = build.call("b", matrices.take, direction, axis=axis, spans=block.spans)
            steps.append(_scaled(build, self._whole(build, own, norm, shape), factor))
        spans = tuple(block.spans for block in row.blocks)
        return build.call("y", matrices.place, steps, axis=axis, spans=spans)

    def _whole(self, build: Builder, direction: fx.Node, norm: Norm, shape: tuple[int, ...]) -> fx.Node:
        fold = fold_of(build.row, shape, slices=norm.shape == "slices")
        if norm.shape == "entries" or (norm.shape == "whole" and fold.shape[0] == 1) or fold.plain:
            return self.unit(build, direction, norm, fold)
        view = {"sizes": fold.sizes, "order": fold.order, "shape": fold.shape}
        x = build.call("x", matrices.fold, direction, **view)
        return build.call("y", matrices.unfold, self.unit(build, x, norm, fold), **view, parameter=shape)

    def unit(self, build: Builder, x: fx.Node, norm: Norm, fold: Fold) -> fx.Node:
        """The unit step of what `fold` made of a row, or of one of its blocks."""
        if norm.shape in ("matrix", "slices") and norm.lmo is norms["spectral"].lmo and self.polynomials:
            return build.call("u", matrices.polar, x, polynomials=self.polynomials)
        return build.call("u", norm.lmo, x)


@dataclass(frozen=True, slots=True)
class Decay:
    """Decoupled weight decay by the group's lr times `weight_decay`; by the row's scale as well if `scaled`."""

    scaled: bool = False

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """The direction passes through."""
        ratio = {"ratio": build.row.scale.value} if self.scaled and build.row.scale.value != 1.0 else {}
        lr, weight_decay = build.number("lr"), build.number("weight_decay")
        build.weight = build.call("w", arithmetic.decay, build.weight, lr, weight_decay, **ratio)
        return direction


@dataclass(frozen=True, slots=True)
class Shrink:
    """The weights' share of a convex step: w <- (1 - lr) w. Bounds the norm of the weights by the radius."""

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """The direction passes through."""
        build.weight = build.call("w", arithmetic.shrink, build.weight, build.number("lr"))
        return direction


@dataclass(frozen=True, slots=True)
class Descend:
    """Apply: w <- w - lr d."""

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """The direction passes through."""
        build.weight = build.call("w", arithmetic.descend, build.weight, direction, build.number("lr"))
        return direction


def chain_of(row: Row, stages: tuple[Stage, ...]) -> fx.Graph:
    """The plain graph of one row."""
    build = Builder(row)
    direction = build.grad
    for stage in stages:
        direction = stage.emit(build, direction)
    return build.finish()


def _scaled(build: Builder, direction: fx.Node, factor: float) -> fx.Node:
    return direction if factor == 1.0 else build.call("s", arithmetic.scale, direction, factor)
