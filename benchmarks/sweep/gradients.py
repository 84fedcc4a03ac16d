"""Which parameters autograd itself reaches, and where a plan says otherwise."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from normc.model.trace.values import tensor_leaves
from normc.plans.plan import NormPlan

Call = tuple[tuple[Any, ...], dict[str, Any]]


class Differences(NamedTuple):
    """Names of the rows on which a plan and autograd differ."""

    lost: tuple[str, ...]  # the plan says unused, and autograd reaches it: the parameter would never train
    idle: tuple[str, ...]  # the plan gives it a step, and this forward and backward give it no gradient


def reached(model: nn.Module, call: Call) -> set[int]:
    """Ids of the parameters that get a gradient, zero or not, from one real forward and backward.

    The loss is the sum of squares of every floating tensor in the output, so that every output contributes.
    The forward may change buffers and weights: pass a model that nobody needs afterwards.
    """
    args, kwargs = call
    parameters = list(model.parameters())
    for parameter in parameters:
        parameter.grad = None
    with torch.enable_grad():
        losses = [_size(output) for output in tensor_leaves(model(*args, **kwargs)) if output.requires_grad]
        if losses:
            torch.stack(losses).sum().backward()
    return {id(parameter) for parameter in parameters if parameter.grad is not None}


def _size(output: Tensor) -> Tensor:
    """The sum of squares, in float64."""
    plain = torch.view_as_real(output) if output.is_complex() else output
    return plain.double().square().sum()


def differences(model: nn.Module, plan: NormPlan, call: Call) -> Differences:
    """The rows of `plan` against one real forward and backward of `model`. A frozen parameter can't differ."""
    found = reached(model, call)
    return compared(plan, {name for name, parameter in model.named_parameters() if id(parameter) in found})


def compared(plan: NormPlan, names: Iterable[str]) -> Differences:
    """The rows of `plan`, but for those without entries, against the names of what autograd reached."""
    names = set(names)
    rows = [row for row in plan.rows if row.numel]
    return Differences(
        lost=tuple(row.name for row in rows if row.role == "unused" and row.name in names),
        idle=tuple(row.name for row in rows if row.role != "unused" and not row.frozen and row.name not in names),
    )
