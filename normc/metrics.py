"""What training does to each row of a plan, measured while it runs: sizes of updates, and weights in their balls."""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from normc.plans.geometry import norms
from normc.plans.plan import NormPlan
from normc.plans.row import Row
from normc.recipe.by_name import recipe_of
from normc.recipe.recipe import Recipe
from normc.recipe.stages.apply import Cap, Cautious
from normc.recipe.stages.norm import Lmo, Rescale
from normc.recipe.stages.view import blocks_matter, fold_of
from normc.update.ops.matrices import fold, take, unit
from normc.update.ops.power import start
from normc.update.runtime.step import UpdateOptimizer

# Bytes of weights that are copied at a time; rows that don't fit wait for the next steps.
COPIED = 2**28
# Products with a matrix, and as many with its transpose, for its largest singular value.
ROUNDS = 8


class Meter:
    """Measures every row once every `every` steps, by its weights before and after a step.

    Numbers stay 0-d tensors on their device until `read`. Weights of at most `copied` bytes are copied at a time, or
    one tensor that is larger: rows take turns at the steps that follow, in the model's order.
    """

    def __init__(self, every: int, copied: int = COPIED) -> None:
        self.every = every
        self.copied = copied
        self._steps = 0
        self._waiting: list[str] = []
        self._before: dict[str, tuple[Tensor, Tensor]] = {}
        self._found: dict[str, dict[str, Tensor]] = {}
        self._read: dict[str, float] | None = {}

    @torch.no_grad()
    def before(self, members: Mapping[str, Tensor]) -> None:
        """Copy the weights whose turn it is, and look at their gradients. `members` are parameters by name."""
        self._before = {}
        self._steps += 1
        if self._steps % self.every == 0 and not self._waiting:
            self._waiting = list(members)
        taken = 0
        while self._waiting:
            parameter = members.get(self._waiting[0])
            size = 0 if parameter is None else parameter.numel() * parameter.element_size()
            if taken and taken + size > self.copied:
                break
            name = self._waiting.pop(0)
            if self._found.pop(name, None) is not None:
                self._read = None
            grad = None if parameter is None else parameter.grad
            if parameter is None or grad is None or grad.layout is not torch.strided or not grad.numel():
                continue
            taken += size
            self._before[name] = (parameter, parameter.detach().clone())
            self._put(name, "grad_nonfinite", grad.isfinite().logical_not().sum() / grad.numel())

    @torch.no_grad()
    def after(self, plan: NormPlan, members: Mapping[str, Tensor], groups: Mapping[str, Mapping[str, Any]]) -> None:
        """Measure what the step has done to the weights that were copied, and forget the copies one by one.

        `groups` are the values of each parameter's group, by the parameter's name.
        """
        recipe = recipe_of(plan) if self._before else None
        while self._before:
            name, (parameter, old) = self._before.popitem()
            if members.get(name) is parameter and name in plan and recipe is not None:
                for what, value in _measured(plan[name], recipe, groups[name], old, parameter.detach()):
                    self._put(name, what, value)

    def forget(self) -> None:
        """Forget the copies of a step that has failed."""
        self._before = {}

    def read(self) -> dict[str, float]:
        """The newest numbers of each row, as `normc/<name>/<what>`. Waits for the device where there are new ones."""
        if self._read is None:
            keys = [f"normc/{name}/{what}" for name, found in self._found.items() for what in found]
            values = [value for found in self._found.values() for value in found.values()]
            numbers: dict[int, float] = {}
            for device in {value.device for value in values}:
                own = [place for place, value in enumerate(values) if value.device == device]
                together = torch.stack([values[place].double() for place in own]).tolist()
                numbers.update(zip(own, together, strict=True))
            self._read = {key: numbers[place] for place, key in enumerate(keys)}
        return dict(self._read)

    def _put(self, name: str, what: str, value: Tensor) -> None:
        whole = getattr(value, "full_tensor", None)  # of a sharded weight
        self._found.setdefault(name, {})[what] = value if whole is None else whole()
        self._read = None


class MeasuredOptimizer(UpdateOptimizer):
    """An optimizer with a plan, whose steps are measured where that is asked for."""

    _meter: Meter | None = None

    @property
    @abstractmethod
    def plan(self) -> NormPlan:
        """The plan that steps follow."""

    def metrics(self, every: int | None = None) -> dict[str, float]:
        """What steps have done to each row, as a flat dict that TensorBoard and W&B take: the newest numbers, empty
        before the first ones. `every` switches measuring on: each row is measured at every `every`-th step from then
        on; 0 switches it off. Copies and unpickled optimizers start without it.

        normc/<name>/update_rms          RMS of what a step has changed the weights by, decay and all
        normc/<name>/update_spectral     its largest singular value, of each block as a matrix: an estimate from below
        normc/<name>/weight_over_radius  the weights' norm over the radius of the ball that the recipe keeps them in;
                                         left out where none does. Above 1, the weights are still on their way into it
        normc/<name>/grad_nonfinite      share of the gradient's entries, before the step, that aren't finite

        A step computes them on the device and nothing waits; a call of `metrics` waits once, if there are new ones. A
        parameter without a gradient has none. Weights are copied 256 MiB at a time, at least one tensor: in a model
        that is larger, rows take turns at the steps that follow. Off, it costs nothing. NormcError for a number of
        steps that can't be, and for a first call without one.
        """
        if every is not None and (isinstance(every, bool) or not isinstance(every, int) or every < 0):
            self._fail(f"every is {every!r}", "give a number of steps, or 0 for no metrics")
        if every == 0:
            self._meter = None
            return {}
        if self._meter is None and every is None:
            self._fail("metrics() of an optimizer that doesn't measure", "say how often: opt.metrics(every=100)")
        if every is not None and (self._meter is None or self._meter.every != every):
            self._meter = Meter(every)
        assert self._meter is not None
        return self._meter.read()

    def _update_members(self, members: Mapping[str, Tensor]) -> None:
        """As any step, measured where that was asked for."""
        meter = self._meter
        if meter is None:
            super()._update_members(members)
            return
        meter.before(members)
        try:
            super()._update_members(members)
        except BaseException:
            meter.forget()
            raise
        entries, groups, now = self.update.entries, self.param_groups, self._by_names()
        meter.after(self.plan, now, {name: groups[entries[name].group] for name in now})


def largest_singular(x: Tensor, rounds: int = ROUNDS) -> Tensor:
    """An estimate, from below, of the largest singular value of each matrix [B, out, in]. [B], in at least float32.

    Power iteration on x^T x that keeps what it has seen (Lanczos), `rounds` vectors from a fixed start. Products alone:
    an eigensolver would make the host wait.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    if x.numel() == 0:
        return x.new_zeros(x.shape[0])
    peak = x.abs().amax((-2, -1), keepdim=True)
    x = x / torch.where(peak > 0, peak, 1.0)  # no square over- or underflows
    basis = unit(start(x.new_zeros(x.shape[0], x.shape[2])), (-1,)).unsqueeze(-1)
    images = x @ basis
    for _ in range(min(rounds, x.shape[1] + 1, x.shape[2]) - 1):
        v = x.mT @ images[..., -1:]
        for _ in range(2):  # rounding leaves something of the vectors before
            v = unit(v - basis @ (basis.mT @ v), (-2,))
        basis, images = torch.cat((basis, v), -1), torch.cat((images, x @ v), -1)
    gram = power = images.mT @ images
    for _ in range(12):  # the small matrix to the power 4096: only its largest eigenvalue is left
        power = power / _trace(power)
        power = power @ power
    square = _trace(gram @ power) / _trace(power)
    return (square.sqrt() * peak)[:, 0, 0]


def _trace(x: Tensor) -> Tensor:
    """The traces of matrices [B, n, n] that have no negative eigenvalue, 1 where it is zero. [B, 1, 1]."""
    trace = x.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]
    return torch.where(trace == 0, torch.ones_like(trace), trace)


def _measured(
    row: Row, recipe: Recipe, group: Mapping[str, Any], old: Tensor, new: Tensor
) -> Iterator[tuple[str, Tensor]]:
    wide = torch.promote_types(new.dtype, torch.float32)
    moved = new.to(wide) - old.to(wide)
    yield "update_rms", torch.linalg.vector_norm(moved) / math.sqrt(moved.numel())
    if row.in_axes and row.out_axes:
        parts = _views(row, moved, bool(row.blocks))
        yield "update_spectral", torch.cat([largest_singular(part) for part in parts]).amax()
    radii = ball_of(row, recipe, group)
    if radii is not None:
        norm = norms[row.norm]
        measure = largest_singular if norm.lmo is norms["spectral"].lmo else norm.measure
        parts = _views(row, new.to(wide), len(radii) > 1)
        yield (
            "weight_over_radius",
            torch.stack([measure(part).amax() / radius for part, radius in zip(parts, radii, strict=True)]).amax(),
        )


def _views(row: Row, x: Tensor, apart: bool) -> list[Tensor]:
    """A row's tensor, or each of its blocks, as matrices [B, out, in]."""
    axis = row.blocks[0].axis if row.blocks else 0
    parts = [take(x.unsqueeze(0), axis, block.spans) for block in row.blocks] if apart else [x.unsqueeze(0)]
    slices = norms[row.norm].shape == "slices"
    folds = [fold_of(row, tuple(part.shape[1:]), slices=slices) for part in parts]
    return [fold(part, own.sizes, own.order, own.shape) for part, own in zip(parts, folds, strict=True)]


def ball_of(row: Row, recipe: Recipe, group: Mapping[str, Any]) -> Sequence[Any] | None:
    """The radius in the row's norm of the ball that the recipe keeps the weights in: one, or one a block where blocks
    have norms of their own. None where nothing bounds them: no decay, or steps that aren't of the norm's size.
    """
    stages = recipe.stages_of(row)
    sized = any(type(stage) in (Lmo, Rescale) for stage in stages) and not any(
        isinstance(stage, Cautious) for stage in stages
    )
    found = [stage.ball(row, group) for stage in stages if sized or isinstance(stage, Cap)]
    # A tensor, of a recipe whose radius follows the lr, isn't looked at: that would wait for its device.
    known = [radii for radii in found if radii is not None and all(isinstance(own, Tensor) or own for own in radii)]
    if not known:
        return None
    radii = [min(each) for each in zip(*known, strict=True)]
    if not blocks_matter(row, norms[row.norm]):
        return radii[:1]
    return radii if len(radii) == len(row.blocks) else list(itertools.repeat(radii[0], len(row.blocks)))
