"""Norms: a gradient in, a step of the weights out, of unit norm in each block, times the block's scale."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from normc.plans.geometry import Norm, norms
from normc.recipe.stages.build import Builder, Space, Stage, blockwise, scaled
from normc.recipe.stages.clip import viewed
from normc.recipe.stages.statistics import wholes
from normc.recipe.stages.view import Fold, blocks_matter
from normc.update.ops import arithmetic, late, matrices, neurons, power, relative

Polynomials = tuple[tuple[float, float, float], ...]


class Normed(Stage):
    """What turns a gradient into a step of a norm's size."""

    takes: ClassVar[tuple[Space, ...]] = ("dual",)
    gives: ClassVar[Space | None] = "primal"
    kind: ClassVar[str] = "norm"


@dataclass(frozen=True, slots=True)
class Lmo(Normed):
    """The unit step of the row's norm, in each block apart, times the block's scale.

    `polynomials` are the steps of Newton-Schulz for the spectral norm; none means its exact form.
    """

    polynomials: Polynomials = ()

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """d <- scale lmo(d): the step of norm 1 that goes along d the furthest."""
        row, norm = build.row, norms[build.row.norm]

        def unit(build: Builder, x: fx.Node, fold: Fold) -> fx.Node:
            return self.unit(build, x, norm, fold)

        return blockwise(build, direction, unit, norm.shape, row.scale.per_block, blocks_matter(row, norm))

    def unit(self, build: Builder, x: fx.Node, norm: Norm, fold: Fold) -> fx.Node:
        """The unit step of what `fold` made of a row, or of one of its blocks."""
        if norm.shape in ("matrix", "slices") and norm.lmo is norms["spectral"].lmo and self.polynomials:
            return build.call("u", matrices.polar, x, polynomials=self.polynomials)
        return build.call("u", norm.lmo, x)


@dataclass(frozen=True, slots=True)
class Rescale(Lmo):
    """The direction itself, its norm in each block set to the block's scale.

    The spectral norm comes from one step of power iteration on a vector kept per matrix. Norms that are a largest
    column's or row's set each of them, as Modula's package does for an embedding.
    """

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """d <- scale d / norm(d): the norm's size, along d itself."""
        return Lmo.emit(self, build, direction)

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
class NeuronLmo(Lmo):
    """A matrix's unit step with its neurons evened out, by a kept average of each one's squares (NorMuon).

    The group's `beta2` is what the average keeps. The step keeps its 2-norm, or with `rms` has RMS 1.
    """

    rms: bool = False

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """d <- scale u / sqrt(v) for u = lmo(d) and v, an average of mean(u^2) a neuron; u's own 2-norm again."""
        return Lmo.emit(self, build, direction)

    def unit(self, build: Builder, x: fx.Node, norm: Norm, fold: Fold) -> fx.Node:
        """u / sqrt(v) for the unit step u and v <- beta2 v + (1 - beta2) mean(u^2), a number for each row of u."""
        step = super(NeuronLmo, self).unit(build, x, norm, fold)
        if norm.shape not in ("matrix", "slices"):
            return step
        known = sum(name.startswith("neuron_moment") for name in build.states())
        name = f"neuron_moment_{known}" if known else "neuron_moment"
        state = build.state(name, f"{fold.shape[0]}x{fold.shape[1]}")
        state = build.keep(name, build.call("v", neurons.neuron_moment, state, step, build.number("beta2")))
        length = {"length": math.sqrt(fold.shape[1] * fold.shape[2])} if self.rms else {}
        return build.call("u", neurons.neuron_normalised, step, state, build.number("eps"), **length)


@dataclass(frozen=True, slots=True)
class EntryLmo(Lmo):
    """The unit step with its entries evened out, by an average of each one's squares kept between steps (AdaMuon).

    The group's `beta2` is what the average keeps. Each block's step then has RMS 1, times the row's scale.
    """

    def emit(self, build: Builder, direction: fx.Node) -> fx.Node:
        """d <- scale x / rms(x), x = u / (sqrt(v) + eps) for u = lmo(d), v <- beta2 v + (1 - beta2) u^2."""
        row, norm = build.row, norms[build.row.norm]

        def unit(build: Builder, x: fx.Node, fold: Fold) -> fx.Node:
            return self.unit(build, x, norm, fold)

        step = blockwise(build, direction, unit, norm.shape, (1.0,), blocks_matter(row, norm))
        squares = build.call("v", arithmetic.second_moment, build.state("step_sq"), step, build.number("beta2"))
        step = build.call("d", late.quotient, step, build.keep("step_sq", squares), build.number("eps"))
        for view in wholes(row, apart=True):
            step = build.call("d", relative.even, step, **viewed(view))
        return scaled(build, step, row.scale.value)
