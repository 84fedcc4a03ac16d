"""The call behind `normc.check`: a copy of the model, its parts measured one by one, and the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from normc.arguments import flag, function, instance, number, whole
from normc.compiler import DEFAULT_RECIPE, request
from normc.model.trace.untouched import rng_untouched
from normc.recipe.recipe import Option
from normc.tools.check.coordinates import RATE, Coordinates, Made, Trial, measure_coordinates
from normc.tools.check.gains import Gains, measure_gains
from normc.tools.check.onestep import STEP, Loss, OneStep, after_step, measure_step
from normc.tools.check.probe import ITERATIONS
from normc.tools.check.report import CheckReport
from normc.tools.check.slopes import Along
from normc.tools.check.subject import Subject, subject_of

Family = Mapping[int, Made | Callable[[], Made]]


def check(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    recipe: str = DEFAULT_RECIPE,
    options: Mapping[str, Option] | None = None,
    tare: Mapping[str, float] | None = None,
    init: bool = False,
    real: bool | float = False,
    loss: Loss | None = None,
    widths: Family | None = None,
    depths: Family | None = None,
    steps: int = 3,
    lr: float = RATE,
    probes: int = 4,
    sharp: int = ITERATIONS,
    seed: int = 0,
) -> CheckReport:
    """Measure what a plan rests on. `model` has real weights and is left as it was; so are those of `widths`, `depths`.

    example_inputs  as for `plan`; also for relatives that are given without inputs of their own
    tare            as for `plan`
    init            start all models from the weights that `normc.init_` gives them
    real            measure gains and the one step from the weights that one true step leaves, of the recipe's lr or of
                    this one: `loss`, or the loss that the model returns, on the example. What starts at zero is then
                    no more in the way. NormcError where there is no loss
    loss            of what the model returns; by default the model's own if it returns one number, else a random linear
                    functional of the output (one step), the squared distance from Gaussian targets (coordinate checks)
    widths, depths  {size: model, (model, inputs), or a function that makes either}: for the coordinate checks
    steps, lr       of the coordinate checks
    probes          backward passes for the average gains
    sharp           power iterations for the worst-case gains; 0 leaves them out

    On a CPU, steps are computed in float32. Two checks with one `seed` agree to the last digit on the same machine with
    the same number of threads.
    """
    instance("model", model, nn.Module, "pass a torch.nn.Module")
    for name, count, least in (("steps", steps, 1), ("probes", probes, 1), ("sharp", sharp, 0), ("seed", seed, 0)):
        whole(name, count, least, f"give a whole number of at least {least}")
    lr = number("lr", lr, "give a learning rate above 0", lambda value: value > 0)
    asked = request(recipe, options, tare)
    if loss is not None:
        function("loss", loss, "give a function of what the model returns")
    flag("init", init)
    if not isinstance(real, bool):
        fix = "give real=True for the recipe's own, or a number above 0"
        number("the lr of a true step", real, fix, lambda value: value > 0)
    trial = Trial(asked, example_inputs, init, loss, steps, lr, seed)
    with rng_untouched():
        subject = subject_of(model, example_inputs, asked, init)
        notes: list[str] = []
        if real is not False:
            subject, rate = after_step(subject, loss, None if real is True else real)
            notes.append(
                f"gains and the one step are of the weights after one true step (lr {rate}), not of the initial ones"
            )
        gains, step = _of_itself(subject, trial, (probes, sharp), notes)
        parts: dict[Along, Coordinates | None] = {
            "width": None if widths is None else measure_coordinates("width", widths, trial),
            "depth": None if depths is None else measure_coordinates("depth", depths, trial),
        }
    return CheckReport(
        subject.plan.model, subject.plan.recipe, STEP, gains, step, parts["width"], parts["depth"], tuple(notes)
    )


def _of_itself(
    subject: Subject, trial: Trial, passes: tuple[int, int], notes: list[str]
) -> tuple[Gains | None, OneStep | None]:
    """The parts that run the graph, with `passes` back for average and worst-case gains: left out, with a note, where
    the graph can't be run.
    """
    if subject.graph.guesses:
        notes.append(
            f"gains and the one-step check are left out: the graph holds guesses ({subject.graph.guesses[0]}) "
            "and means less than the model"
        )
        return None, None
    try:
        with torch.no_grad():
            subject.run(subject.initial)
    except (RuntimeError, TypeError, ValueError, IndexError) as problem:
        notes.append(f"gains and the one-step check are left out: {str(problem).splitlines()[0]}")
        return None, None
    return measure_gains(subject, *passes, trial.seed), measure_step(subject, trial.loss, STEP, trial.seed)
