"""How a step reaches the weights, and what bounds them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from normc.errors import NormcError
from normc.plans.geometry import Norm, norms
from normc.plans.row import Role, Row
from normc.recipe.stages.build import Builder, Space, Stage, blockwise, seen_alike
from normc.recipe.stages.view import Fold, blocks_matter
from normc.update.ops import arithmetic, bounding, cautious, power


class Applied(Stage):
    """What changes the weights; the step itself passes through."""

    takes: ClassVar[tuple[Space, ...]] = ("primal",)
    kind: ClassVar[str] = "apply"


@dataclass(frozen=True, slots=True)
class Decay(Applied):
    """Decoupled weight decay by the group's lr times `weight_decay`; by the row's scale as well if `scaled`.

    independent   by `weight_decay` alone, whatever the lr.
    cautious      only of entries that the step makes smaller too (arXiv 2510.12402).
    """

    scaled: bool = False
    independent: bool = False
    cautious: bool = False

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """w <- (1 - lr weight_decay) w."""
        if not build.row.decay:
            return direction
        ratio = build.decay(build.row.scale.value if self.scaled else 1.0)
        weight_decay = build.number("weight_decay")
        if self.independent:
            build.weight = build.call("w", arithmetic.shrink, build.weight, weight_decay, **build.decay())
            return direction
        lr = build.number("lr")
        if self.cautious:
            args = (build.weight, direction, lr, weight_decay)
            build.weight = build.call("w", cautious.cautious_decay, *args, **ratio)
            return direction
        build.weight = build.call("w", arithmetic.decay, build.weight, lr, weight_decay, **ratio)
        return direction

    def ball(self, row: Row, group: Mapping[str, Any]) -> tuple[Any, ...] | None:
        """Where a step as large as the scale is what decay takes off; a cautious one may take nothing off."""
        weight_decay = group["weight_decay"] * row.decay
        if self.cautious or not weight_decay:
            return None
        by = group["lr"] if self.independent else 1 / row.scale.value if self.scaled and row.scale.value else 1.0
        return tuple(abs(scale) * by / weight_decay for scale in row.scale.per_block)


# What a recipe's option `decay` can be: whether it is independent of lr, and whether it is cautious.
DECAYS: Mapping[str, tuple[bool, bool]] = {
    "decoupled": (False, False),
    "independent": (True, False),
    "cautious": (False, True),
}


def decay_named(name: str, scaled: bool = False) -> Decay:
    """Return the decay that a recipe's option `decay` names."""
    independent, cautious = DECAYS[name]
    return Decay(scaled, independent, cautious)


@dataclass(frozen=True, slots=True)
class Shrink(Applied):
    """The weights' share of a convex step. Bounds the norm of the weights by the radius."""

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """w <- (1 - lr) w."""
        build.weight = build.call("w", arithmetic.shrink, build.weight, build.number("lr"))
        return direction

    def ball(self, row: Row, group: Mapping[str, Any]) -> tuple[Any, ...] | None:
        """The scale."""
        return tuple(map(abs, row.scale.per_block))


@dataclass(frozen=True, slots=True)
class Descend(Applied):
    """The step itself."""

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """w <- w - lr d."""
        build.weight = build.call("w", arithmetic.descend, build.weight, direction, build.number("lr"))
        return direction


@dataclass(frozen=True, slots=True)
class Regularize(Applied):
    """Weight decay in proportion to the row's share of the step: a cap of 1 / weight_decay on its norm.

    Rows of the roles in `spared` stay as they are: weights that belong elsewhere than at zero, as a norm's gains.
    """

    spared: tuple[Role, ...] = ()

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """w <- (1 - lr weight_decay target) w."""
        if build.row.role in self.spared or not build.row.decay:
            return direction
        lr, weight_decay = build.number("lr"), build.number("weight_decay")
        ratio = float(build.row.target) * build.row.decay
        build.weight = build.call("w", arithmetic.decay, build.weight, lr, weight_decay, ratio=ratio)
        return direction

    def ball(self, row: Row, group: Mapping[str, Any]) -> tuple[Any, ...] | None:
        """The scale of a target of 1 / weight_decay."""
        bound = float(row.target) * row.decay * group["weight_decay"]
        if row.role in self.spared or not bound:
            return None
        return tuple(abs(scale) / bound for scale in row.scale.per_block)


@dataclass(frozen=True, slots=True)
class Project(Applied):
    """Every vector that an index looks up is set to RMS 1; other weights stay as they are."""

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """w <- w / rms(w), vector by vector."""
        if build.row.role not in ("embedding", "position"):
            return direction
        dims = build.row.out_axes
        length = math.sqrt(math.prod(build.row.shape[dim] for dim in dims))
        build.weight = build.call("w", power.project, build.weight, dims=dims, length=length)
        return direction


@dataclass(frozen=True, slots=True)
class Cautious(Stage):
    """Only the entries of a step that go down the gradient of this very step, scaled up for the others (2411.16085)."""

    takes: ClassVar[tuple[Space, ...]] = ("primal",)
    kind: ClassVar[str] = "mask"

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """d <- d [d g > 0] n / (number of these + 1)."""
        return build.call("d", cautious.cautious, direction, build.grad)


@dataclass(frozen=True, slots=True)
class Sphere(Applied):
    """The step itself, along a sphere: each block keeps the Frobenius norm that it has at the first step.

    The step's own size doesn't matter; its length is lr times that norm. A block that starts at zero has no sphere. It
    moves in a ball instead, whose radius R stands for the norm: that of a semi-orthogonal matrix of spectral norm
    sqrt(out / in), or sqrt(out min(1, out / in)). Inside of it the step is plain; one that leaves it ends on its
    surface.
    """

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """w <- R unit(w - lr R unit(d)), R = ||w_0||; from w_0 = 0, w - lr R unit(d) in a ball of radius R."""
        start, lr = build.weight, build.number("lr")

        def unit(build: Builder, x: fx.Node, fold: Fold) -> fx.Node:
            known = sum(name.startswith("radius") for name in build.states())
            name = f"radius_{known}" if known else "radius"
            step = build.call("u", norms["frobenius"].lmo, seen_alike(build, x, start, direction))
            state = build.state(name, f"{fold.shape[0]}")
            _, rows, columns = fold.shape
            ball = math.sqrt(rows * min(1.0, rows / columns)) if columns else 1.0
            radius = build.keep(name, build.call("r", bounding.first_length, state, x, ball=ball))
            return build.call("w", bounding.sphere, x, step, radius, lr)

        build.weight = blockwise(build, start, unit, "matrix", (1.0,), bool(build.row.blocks))
        return direction


@dataclass(frozen=True, slots=True)
class Cap(Applied):
    """After the step, the weights are put back into a ball of the row's norm: the nearest point of it.

    The ball's radius is `times` the row's scale. One cap a norm: singular values, columns, rows, all entries together
    or each by itself.
    """

    times: float = 1.0

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """w <- the nearest w with norm(w) <= times scale."""
        row, norm = build.row, norms[build.row.norm]
        if not self.times > 0:
            raise NormcError(f"weights can't be capped at {self.times} times their radius", "give a positive number")
        bounds = [self.times * abs(scale) for scale in row.scale.per_block]
        if not all(bounds):
            return direction

        def unit(build: Builder, x: fx.Node, fold: Fold) -> fx.Node:
            bound = bounds.pop(0) if len(bounds) > 1 else bounds[0]
            if norm.shape in ("matrix", "slices"):
                return build.call("w", bounding.cap_singular, x, bound=bound)
            if norm.shape == "entries":
                return build.call("w", bounding.cap_entries, x, bound=bound)
            dims = {"columns": (-2,), "rows": (-1,), "whole": (-2, -1)}[norm.shape]
            length = _unit_length(norm, fold.shape[1] * fold.shape[2]) if norm.shape == "whole" else 1.0
            return build.call("w", bounding.cap_lengths, x, dims=dims, bound=bound * length)

        shape = "matrix" if norm.shape == "whole" else norm.shape
        build.weight = blockwise(build, build.weight, unit, shape, (1.0,), blocks_matter(row, norm))
        return direction

    def ball(self, row: Row, group: Mapping[str, Any]) -> tuple[Any, ...] | None:
        """`times` the scale."""
        return tuple(self.times * abs(scale) for scale in row.scale.per_block)


@dataclass(frozen=True, slots=True)
class QkClip(Applied):
    """After the step, heads whose logits were seen to be too large get smaller queries and keys (MuonClip, 2507.20534).

    A row's blocks are its heads; `observe_logits` of the optimizer says what they have made. With both queries and keys
    scaled by sqrt(threshold / largest), the same inputs make logits of `threshold` at most. Rows without blocks, and
    heads that nothing was said of, stay as they are.
    """

    threshold: float = 100.0

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """w <- sqrt(min(1, threshold / largest)) w, head by head."""
        if not self.threshold > 0:
            raise NormcError(f"logits can't be clipped at {self.threshold}", "give a positive number, as 100")
        if not build.row.blocks:
            return direction
        seen: list[fx.Node] = []

        def unit(build: Builder, x: fx.Node, fold: Fold) -> fx.Node:
            name = f"largest_logit_{len(seen)}" if seen else "largest_logit"
            seen.append(build.state(name, f"{fold.shape[0]}"))
            clipped = build.call("w", bounding.clip_logits, x, seen[-1], threshold=self.threshold)
            build.keep(name, build.call("z", bounding.forget, seen[-1]))
            return clipped

        build.weight = blockwise(build, build.weight, unit, "matrix", (1.0,), apart=True)
        return direction


def _unit_length(norm: Norm, numel: int) -> float:
    """The 2-norm of all entries of a unit step: a power of their number times that of one."""
    one, four = (float(torch.linalg.vector_norm(norm.lmo(torch.ones(1, 1, n, dtype=torch.float64)))) for n in (1, 4))
    return one * math.pow(four / one, math.log(max(numel, 1), 4))
