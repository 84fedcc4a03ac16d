"""Training steps of the recipe `modula-adam` against the loop of Modula's paper, on its package's networks."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from modula.vector import Vector
from torch import Tensor

import normc
from normc.update.ops.power import start
from tests.recipe.modula import nets, package
from tests.recipe.modula.test_training import CASES, LR, STEPS, Batch, loss_of, rate, trained_here

MOMENTUM, BETA2, DECAY = 0.9, 0.99, 0.01


def trained_by_package(module: Any, weights: Vector, batch: Batch) -> None:
    """Theory A6: both averages without a bias, their quotient without eps, NaN as 0; normalize, step, regularize."""
    first: Any = 0
    second: Any = 0
    for step in range(STEPS):
        inputs, targets = batch(step)
        loss_of(module(inputs, weights), targets).backward()
        grad = Vector([tensor.grad.clone() for tensor in weights])
        with torch.no_grad():
            times = step / (step + 1)
            first = grad if step == 0 else first + (grad - first) * (1 - MOMENTUM) ** times
            second = grad**2 if step == 0 else second + (grad**2 - second) * (1 - BETA2) ** times
            update = Vector([torch.nan_to_num(x / y**0.5) for x, y in zip(first, second, strict=True)])
            module.normalize(update, target_norm=LR * rate(step))
            for tensor, change in zip(weights, update, strict=True):
                tensor -= change
            module.regularize(weights, strength=LR * rate(step) * DECAY)
        weights.zero_grad()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", ["resmlp", "gpt"])
def test_fifty_steps_equal_the_package_s(name: str, dtype: torch.dtype) -> None:
    """Weights within round-off of each other."""
    make, make_theirs, batch, blocks_mass = CASES[name]
    torch.manual_seed(0)
    model, theirs = make().to(dtype), make_theirs()
    weights = Vector([tensor.detach().to(dtype).requires_grad_() for tensor in theirs.initialize("cpu")])

    def wide(seed: int) -> tuple[Tensor, Tensor]:
        inputs, targets = batch(seed)
        return inputs.to(dtype) if inputs.dtype.is_floating_point else inputs, targets

    parameters = dict(model.named_parameters())
    pairs = [(parameters[key], leaf) for key, leaf in zip(nets.in_order(model), package.leaves(theirs), strict=True)]
    with torch.no_grad():
        for (parameter, leaf), tensor in zip(pairs, weights, strict=True):
            parameter.copy_(package.factor(leaf) * tensor)
            if hasattr(leaf, "u"):  # the vectors of its power iteration, random there and fixed here
                leaf.u = start(torch.zeros(tensor.shape[1], dtype=dtype)).clone()
                leaf.v = torch.empty(tensor.shape[0], dtype=dtype)
    begun = [copy.deepcopy(parameter.detach()) for parameter, _ in pairs]
    options: dict[str, Any] = {"gains": "modula", "blocks_mass": blocks_mass, "project_embeddings": True}
    opt = normc.compile(
        model, wide(0)[0], recipe="modula-adam", options=options, lr=LR, momentum=MOMENTUM, beta2=BETA2,
        weight_decay=DECAY, compile=False,
    )  # fmt: skip
    trained_here(model, opt, wide)
    trained_by_package(theirs, weights, wide)
    for (parameter, leaf), tensor, first in zip(pairs, weights, begun, strict=True):
        moved = float((parameter.detach() - first).square().mean().sqrt())
        apart = float((parameter.detach() - package.factor(leaf) * tensor.detach()).abs().max())
        assert apart / moved < (1e-3 if dtype == torch.float32 else 1e-11)
        assert moved > 0.01 * float(first.square().mean().sqrt())
