"""The learning rate at which a plan's update is as large as AdamW's: where to start, coming from AdamW."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from normc.arguments import number
from normc.errors import NormcError
from normc.plans.geometry import norms
from normc.plans.plan import NormPlan
from normc.plans.row import Row
from normc.recipe.by_name import recipe_of
from normc.recipe.mixed import Mixed
from normc.recipe.recipe import Recipe
from normc.recipe.stages.apply import Cautious, Sphere
from normc.recipe.stages.build import Stage
from normc.recipe.stages.clip import ClipRms
from normc.recipe.stages.late import LateAdam
from normc.recipe.stages.moments import EmaOfSteps
from normc.recipe.stages.norm import NeuronLmo, Normed, Rescale
from normc.recipe.stages.precondition import AdamDirection, Arctangent, Precondition, UnbiasedEma
from normc.recipe.stages.size import Radius, RelativeToWeights
from normc.tools.report.step import rms_of

# The RMS of AdamW's step at lr 1. For gradients that are independent from step to step it is
# sqrt((1 - beta1) / (1 + beta1)), .23 at beta1 .9, and more the more they agree.
RMS = 0.2


def lr_like_adamw(plan: NormPlan, lr: float, *, rms: float = RMS) -> float | dict[str, float]:
    """Return the lr at which the plan's whole update has the RMS that AdamW's has at `lr`; {recipe: lr} of several.

    plan   of any recipe whose steps have a size that doesn't depend on gradients or weights.
    lr     AdamW's, in units of weights per step, at least 0.
    rms    the RMS of AdamW's step at lr 1: 0.2 as Moonlight has it (arXiv 2502.16982, which saw 0.2 to 0.4).

    The RMS is that of all entries together that learn. An LMO's step has it from norm, scale and shape, every
    direction taken to have full rank and no column or row of zeros (a token that isn't in the batch has one); rows
    that AdamW or SOAP updates have `rms` times their scale. Weight decay is not counted.
    NormcError for a plan in which nothing learns, and for rows whose step has no such size.
    """
    lr = number("lr", lr, "give AdamW's learning rate")
    rms = number("rms", rms, "give that of AdamW's step at lr 1, as 0.2", lambda value: value > 0)
    found = {name: lr * rms / size for name, size in sizes(plan, rms).items()}
    return found if isinstance(recipe_of(plan), Mixed) else found[plan.recipe]


def sizes(plan: NormPlan, rms: float = RMS) -> Mapping[str, float]:
    """Return the RMS of a step of lr 1, over all entries that each recipe of a plan teaches. Errors as above."""
    recipe = recipe_of(plan)
    rows: dict[str, list[Row]] = {}
    for row in plan.rows:
        if row.rule != "none" and not row.frozen and row.numel:
            rows.setdefault(recipe.member(row).name, []).append(row)
    members = recipe.distinct() if isinstance(recipe, Mixed) else [recipe]
    found = {member.name: _together(rows.get(member.name, []), recipe, rms) for member in members}
    still = [name for name, size in found.items() if size == 0]
    if still:
        raise NormcError(f"nothing learns by {', '.join(still)} in this plan", "plan a model whose weights learn by it")
    return found


def _together(rows: Sequence[Row], recipe: Recipe, rms: float) -> float:
    squares = math.fsum(row.numel * _size(row, recipe.member(row).stages_of(row), rms) ** 2 for row in rows)
    return math.sqrt(squares / max(1, sum(row.numel for row in rows)))


def _size(row: Row, stages: Sequence[Stage], rms: float) -> float:
    """Return the RMS of one row's step at lr 1. NormcError where it has none that the plan could know."""
    found = None
    for place, stage in enumerate(stages):
        why = next((why for kind, why in _NO_SIZE.items() if isinstance(stage, kind)), None)
        if isinstance(stage, Normed):
            found, why = _normed(row, stage)
        elif isinstance(stage, Radius):
            found, why = _preconditioned(row, stages[:place], rms)
        if why is not None:
            fix = "tune its lr; a plan knows the sizes of LMOs, and of Adam's and SOAP's steps"
            raise NormcError(f"the step of {row.name!r} by {type(stage).__name__} {why}", fix)
    assert found is not None, f"{row.name}: no stage of {stages} sizes its step"
    return found


# Stages behind a norm or a scale whose results have another size than the plan's, and why.
_NO_SIZE: Mapping[type[Stage], str] = {
    Cautious: "leaves entries out, as gradients say",
    EmaOfSteps: "is an average, which is smaller the less its steps agree",
    RelativeToWeights: "is a share of the weights' own size",
    Sphere: "is a share of the weights' own size",
}


def _normed(row: Row, stage: Normed) -> tuple[float, str | None]:
    norm = norms[row.norm]
    if isinstance(stage, NeuronLmo) and stage.rms:
        return rms_of(row, None), None
    if isinstance(stage, Rescale) and norm.shape not in ("whole", "columns", "rows"):
        return 0.0, "is a gradient over its norm: how large its other singular values or entries are isn't known"
    return rms_of(row, norm), None


def _preconditioned(row: Row, before: Sequence[Stage], rms: float) -> tuple[float, str | None]:
    """Adam's step, however its squares are averaged, has the RMS of an average over that of what it averages."""
    adam = any(isinstance(stage, AdamDirection | LateAdam) for stage in before)
    if not adam and any(isinstance(stage, UnbiasedEma) for stage in before):
        adam = any(isinstance(stage, Precondition) and not isinstance(stage.by, Arctangent) for stage in before)
    most = min((stage.threshold for stage in before if isinstance(stage, ClipRms)), default=math.inf)
    return min(rms, most) * rms_of(row, None), None if adam else "is as large as its gradient makes it"
