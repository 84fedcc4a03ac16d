"""One step of the plan, from the weights as they are and from the budget: how far each parameter alone, and all of them
together, move the output, in units of the learning rate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from normc.compiler import build
from normc.errors import NormcError
from normc.model.trace.names import named_parameters
from normc.model.trace.values import tensor_leaves
from normc.passes.analyses.sensitivity import Sensitivities
from normc.plans.row import Row
from normc.recipe.by_name import recipe_of
from normc.recipe.rates import default_lr
from normc.tools.check.budget import at_budget
from normc.tools.check.grouping import lines
from normc.tools.check.subject import Subject, Weights, peak, rms, seeded
from normc.tools.check.verdict import OK, Verdict, worst

Loss = Callable[[Any], Tensor]
BAND = (0.4, 1.75)  # of the joint change, over the learning rate times what the targets promise
ALONE = (
    4.0  # the most that one parameter alone may exceed its own promise: gradients find better directions than average
)
STEP = 2.0**-10


@dataclass(frozen=True, slots=True)
class Move:
    """RMS of the output's change over the learning rate: `promised` by S R target, and of one real step."""

    name: str
    promised: float | None
    initial: float
    budget: float


@dataclass(frozen=True, slots=True)
class MoveRow:
    """Layers that are one line of the table: the sums of their numbers, and the verdict of the worst."""

    name: str
    count: int
    promised: float | None
    initial: float
    budget: float
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class OneStep:
    """Part two of a check. `peak` is the largest change of any one position; `jointly`, by one step of all."""

    of: tuple[Move, ...]
    rows: tuple[MoveRow, ...]
    jointly: Move
    peak: tuple[float, float]
    shares: bool
    verdict: Verdict


def measure_step(subject: Subject, loss: Loss | None, lr: float, seed: int) -> OneStep:
    """Two steps, each from a gradient of `loss`, or of a random linear functional of the output."""
    starts = (subject.initial, at_budget(subject, seed, inside=True))
    found = [_moves(subject, start, loss, lr, seed) for start in starts]
    moves = tuple(
        Move(row.name, _promised(row, subject), found[0][0].get(row.name, 0.0), found[1][0].get(row.name, 0.0))
        for row in subject.plan.rows
        if row.rule != "none" and not row.frozen
    )
    total = promise(subject)
    shares = are_shares(subject)
    jointly = Move("all together", total, found[0][1], found[1][1])
    by_name = {move.name: move for move in moves}
    rows = tuple(_row(family.name, [by_name[row.name] for row in family.rows]) for family in lines(subject.plan))
    return OneStep(moves, rows, jointly, (found[0][2], found[1][2]), shares, _judged(jointly, shares))


def after_step(subject: Subject, loss: Loss | None, rate: float | None) -> tuple[Subject, float | Mapping[str, float]]:
    """The subject with the weights that one true step leaves: the plan's optimizer at `rate`, None for the recipe's own
    lr, on the gradient of `loss` or of the loss that the model returns. And the lr. NormcError where either is missing.
    """
    recipe = recipe_of(subject.plan)
    lr = default_lr(recipe) if rate is None else rate
    start = subject.initial
    changes = _step(subject, start, _gradients(subject, start, own_loss if loss is None else loss, 0), lr)
    return replace(subject, initial=start.plus(changes)), lr


def own_loss(result: Any) -> Tensor:
    """The first single number that a model returns and that has a gradient. NormcError if there is none."""
    for leaf in tensor_leaves(result):
        if leaf.numel() == 1 and leaf.requires_grad:
            return leaf.sum()
    raise NormcError("the model returns no loss to take a true step on", "give check() a loss, or inputs with labels")


def promise(subject: Subject) -> float | None:
    """The sum of S R target over all that learns: the most that a step of lr 1 may move the output. None: unknown."""
    found = [_promised(row, subject) for row in subject.plan.rows if row.rule != "none" and not row.frozen]
    known = [value for value in found if value is not None]
    return sum(known) if known and len(known) == len(found) else None


def are_shares(subject: Subject) -> bool:
    """Whether targets are shares of one budget: they promise about one unit of the output."""
    total = promise(subject)
    return total is not None and 0.5 <= total / subject.facts[Sensitivities].unit <= 1.5


def _promised(row: Row, subject: Subject) -> float | None:
    """S R target, where the row's step is as large as a unit step of its norm; None where it isn't, or isn't known."""
    if row.rule not in recipe_of(subject.plan).member(row).normed or row.sensitivity is None or row.magnitude is None:
        return None
    return row.sensitivity * row.magnitude * row.target * subject.facts[Sensitivities].unit


def _row(name: str, moves: list[Move]) -> MoveRow:
    promised = [move.promised for move in moves if move.promised is not None]
    verdicts = [_alone(move) for move in moves]
    return MoveRow(
        name, len(moves), sum(promised) if len(promised) == len(moves) else None,
        sum(move.initial for move in moves), sum(move.budget for move in moves), worst(verdicts),
    )  # fmt: skip


ABOVE = "alone it moves the output more than S R target: its gain is larger than nominal (see the table of gains)"
INITIAL = "as initialised it moves the output more than promised, at the budget it doesn't: the initial weights are off"
UNTOUCHED = "it doesn't move the output yet: zero-initialised weights lie behind it; after their first steps it will"


def _alone(move: Move) -> Verdict:
    if move.promised is None:
        return Verdict("ok", "")
    if move.budget > ALONE * move.promised:
        return Verdict("wrong", "too large", ABOVE)
    if move.initial > ALONE * move.promised:
        return Verdict("note", "large at init", INITIAL)
    if move.initial == 0 < move.budget:
        return Verdict("note", "0 at init", UNTOUCHED)
    return OK


def _judged(jointly: Move, shares: bool) -> Verdict:
    if jointly.promised is None:
        return Verdict("note", "no promise", "the plan doesn't say how far its steps move the output")
    low, high = BAND
    ratio, first = jointly.budget / jointly.promised, jointly.initial / jointly.promised
    if ratio > high:
        return Verdict("wrong", "too large", f"one step moves the output {ratio:.2g} times as far as promised")
    if shares and ratio < low:
        return Verdict("note", "cautious", f"one step uses {ratio:.0%} of what it might: safe, but slow")
    if first > high:
        why = (
            f"as initialised, one step moves the output {first:.2g} times as far as promised: warm up the learning rate"
        )
        return Verdict("note", "large at init", why)
    if not shares:
        why = "this recipe's targets are radii, not shares of one budget: the learning rate isn't the output's change"
        return Verdict("ok", "within the promise", why)
    return OK


def _moves(
    subject: Subject, start: Weights, loss: Loss | None, lr: float, seed: int
) -> tuple[Mapping[str, float], float, float]:
    """Of one step: each parameter's own, the joint RMS and the joint peak, all over lr."""
    changes = _step(subject, start, _gradients(subject, start, loss, seed), lr)
    with torch.no_grad():
        before = subject.run(start)

        def change(names: list[str]) -> list[Tensor]:
            after = subject.run(start.plus({name: changes[name] for name in names}))
            return [new - old for new, old in zip(after, before, strict=True)]

        alone = {name: rms(change([name])) / lr for name, moved in changes.items() if moved.any()}
        together = change(list(changes))
    return alone, rms(together) / lr, peak(together) / lr


def _gradients(subject: Subject, start: Weights, loss: Loss | None, seed: int) -> dict[str, Tensor]:
    leaves = {
        name: tensor.detach().clone().requires_grad_(tensor.is_floating_point()) for name, tensor in start.of.items()
    }
    with torch.enable_grad():
        if loss is None:
            outputs = subject.run(Weights(leaves, start.factors))
            generator = torch.Generator().manual_seed(seed)
            value = torch.stack([_functional(out, generator) for out in outputs]).sum()
        else:
            with seeded():
                names = [name for name, _ in subject.model.named_parameters()]
                own = {
                    name: leaves[bare] for name, (bare, _) in zip(names, named_parameters(subject.model), strict=True)
                }
                value = loss(torch.func.functional_call(subject.model, own, subject.args, subject.kwargs))
        wanted = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
        found = torch.autograd.grad(value, list(wanted.values()), allow_unused=True)
    return {name: grad for name, grad in zip(wanted, found, strict=True) if grad is not None}


def _functional(out: Tensor, generator: torch.Generator) -> Tensor:
    """<w, out> for a Gaussian w; of a single number, the number itself, which is a loss."""
    if out.numel() == 1:
        return out.sum()
    noise = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out)
    return (noise * out).sum()


def _step(
    subject: Subject, start: Weights, gradients: Mapping[str, Tensor], lr: float | Mapping[str, float]
) -> dict[str, Tensor]:
    """What the plan's optimizer adds to each parameter in its first step."""
    named = [(name, nn.Parameter(tensor.clone())) for name, tensor in start.of.items()]
    for name, parameter in named:
        if name in gradients and not subject.plan[name].frozen:
            parameter.grad = gradients[name].clone()
    opt = build(subject.plan, named, lr=lr, backend=subject.target, compile=False)
    opt.step()
    return {name: parameter.detach() - start.of[name] for name, parameter in named}
