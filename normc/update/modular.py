"""Stages of Modula's recipes: a warmed-up average, a direction whose norm is set, weights kept inside a norm's ball."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx

from normc.plans.geometry import Norm, norms
from normc.plans.row import Row
from normc.update import arithmetic, power
from normc.update.stages import Builder, Lmo
from normc.update.view import Fold, blocks_matter, comb_of, fold_of


@dataclass(frozen=True, slots=True)
class WarmEma:
    """The running average of gradients that takes the first whole: its share falls from 1 to 1 - `momentum`."""

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """m <- m + (1 - momentum)^((t - 1) / t) (g - m); the direction is m."""
        step, state, momentum = build.state("step", "count"), build.state("momentum_buffer"), build.number("momentum")
        step = build.keep("step", build.call("t", arithmetic.count, step))
        return build.keep("momentum_buffer", build.call("m", arithmetic.warm_ema, state, direction, step, momentum))


@dataclass(frozen=True, slots=True)
class Rescale(Lmo):
    """The direction itself, its norm in each block set to the block's scale.

    The spectral norm comes from one step of power iteration on a vector kept per matrix. Norms that are a largest
    column's or row's set each of them, as Modula's package does for an embedding.
    """

    def unit(self, build: Builder, x: fx.Node, norm: Norm, fold: Fold) -> fx.Node:
        """`x` over its norm."""
        if norm.shape in ("matrix", "slices"):
            known = sum(name.startswith("singular_vector") for name in build.states())
            name = f"singular_vector_{known}" if known else "singular_vector"
            level = build.call("l", power.level, x)
            vector = build.state(name, f"{fold.shape[0]}x{fold.shape[2]}")
            vector = build.keep(name, build.call("v", power.power_step, vector, level))
            return build.call("u", power.rescale, level, vector)
        if norm.shape == "entries":
            return build.call("u", power.level, x)
        return build.call("u", norm.lmo, x)


@dataclass(frozen=True, slots=True)
class Regularize:
    """Weight decay in proportion to the row's share of the step: a cap of 1 / weight_decay on its norm."""

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """w <- (1 - lr weight_decay target) w; the direction passes through."""
        lr, weight_decay = build.number("lr"), build.number("weight_decay")
        build.weight = build.call("w", arithmetic.decay, build.weight, lr, weight_decay, ratio=build.row.target)
        return direction


@dataclass(frozen=True, slots=True)
class Project:
    """Every vector that an index looks up is set to RMS 1; other weights stay as they are."""

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """The direction passes through."""
        if build.row.role not in ("embedding", "position"):
            return direction
        dims = build.row.out_axes
        length = math.sqrt(math.prod(build.row.shape[dim] for dim in dims))
        build.weight = build.call("w", power.project, build.weight, dims=dims, length=length)
        return direction


def vectors(row: Row) -> Iterator[int]:
    """How many entries the vectors have that `Rescale` keeps for a row, one matrix size after another."""
    norm = norms[row.norm]
    if norm.shape not in ("matrix", "slices"):
        return
    slices = norm.shape == "slices"
    if not blocks_matter(row, norm):
        folds = [fold_of(row, row.shape, slices=slices)]
    elif (comb := comb_of(row.blocks)) is not None and len(set(row.scale.per_block)) == 1:
        folds = [fold_of(row, row.shape, comb, slices)]
    else:
        axis = row.blocks[0].axis
        shapes = [(*row.shape[:axis], block.size, *row.shape[axis + 1 :]) for block in row.blocks]
        folds = [fold_of(row, shape, slices=slices) for shape in shapes]
    yield from (fold.shape[0] * fold.shape[2] for fold in folds)
