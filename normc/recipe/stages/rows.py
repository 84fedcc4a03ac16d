"""Weight normalisation inside of the update: rows as lengths and directions, each updated on its own (2605.10797)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from normc.recipe.stages.apply import Applied
from normc.recipe.stages.build import Builder, blockwise, seen_alike
from normc.recipe.stages.precondition import Preconditioner, this_step
from normc.recipe.stages.view import Fold
from normc.update.ops import arithmetic, rows


@dataclass(frozen=True, slots=True)
class AcrossRows(Preconditioner):
    """The gradient of the rows' directions v, where w = r v / ||v||; in each block apart.

    Lengths r and ||v|| start as the rows' own. A row that is zero has no direction: its gradient stays as it is.
    """

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """d <- r / ||v|| (d - (d . u) u), u = w / r, row by row."""
        index = iter(range(len(build.row.blocks) or 1))

        def unit(build: Builder, x: fx.Node, fold: Fold) -> fx.Node:
            w = seen_alike(build, x, direction, build.weight)
            return build.call("d", rows.across, x, w, *_lengths(build, w, fold, next(index)))

        return blockwise(build, direction, unit, "matrix", (1.0,), bool(build.row.blocks))


@dataclass(frozen=True, slots=True)
class RowStep(Applied):
    """The step itself, of directions; and Adam's of their lengths, by the group's lr, `beta2` and `eps`.

    Weight decay is of the whole matrix and comes last, lengths being taken anew. A row that is zero takes the plain
    step, whose length is its own from then on.

    momentum  Adam's first beta.
    """

    momentum: float = 0.9

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """w <- r v / ||v|| - lr weight_decay w, v <- v - lr d, r <- r - lr Adam(g . u)."""
        start, step = build.weight, this_step(build)
        lr, beta2, eps, decay = (build.number(name) for name in ("lr", "beta2", "eps", "weight_decay"))
        index = iter(range(len(build.row.blocks) or 1))

        def unit(build: Builder, w: fx.Node, fold: Fold) -> fx.Node:
            place = next(index)
            length, size = _lengths(build, w, fold, place)
            slope = build.call("x", rows.length_slopes, seen_alike(build, w, start, build.grad), w, length)
            names = [_name(kind, place) for kind in ("length_avg", "length_avg_sq")]
            first, second = (build.state(name, f"{fold.shape[0]}x{fold.shape[1]}") for name in names)
            first = build.keep(names[0], build.call("m", arithmetic.ema, first, slope, self.momentum))
            second = build.keep(names[1], build.call("v", arithmetic.second_moment, second, slope, beta2))
            adam = build.call("d", arithmetic.adam_direction, first, second, step, self.momentum, beta2, eps)
            v = build.call("v", rows.moved, w, seen_alike(build, w, start, direction), length, size, lr)
            size = build.keep(_name("direction_length", place), build.call("s", rows.row_lengths, v, size))
            length = build.call("r", rows.moved_lengths, length, adam, size, lr)
            own = {} if build.row.decay == 1.0 else {"factor": build.row.decay}
            w = build.call("w", rows.composed, w, v, length, size, lr, decay, **own)
            build.keep(_name("row_length", place), build.call("r", rows.signed_lengths, length, w))
            return w

        build.weight = blockwise(build, start, unit, "matrix", (1.0,), bool(build.row.blocks))
        return direction


def _name(kind: str, place: int) -> str:
    return f"{kind}_{place}" if place else kind


def _lengths(build: Builder, w: fx.Node, fold: Fold, place: int) -> list[fx.Node]:
    """The lengths of rows and of their directions, those of `w` where there are none yet."""
    found = []
    for kind in ("row_length", "direction_length"):
        name = _name(kind, place)
        state = build.state(name, f"{fold.shape[0]}x{fold.shape[1]}")
        if state.op == "placeholder":
            state = build.keep(name, build.call("r", rows.known_lengths, state, w))
        found.append(state)
    return found
