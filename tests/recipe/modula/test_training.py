"""Training steps of the recipe `modula` against the loop of the paper's package, from the same weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import modula.compound
import pytest
import torch
from modula.vector import Vector
from torch import Tensor, nn
from torch.nn import functional as F

import normc
from normc.update.ops.power import start
from tests.recipe.modula import nets, package

STEPS, LR, MOMENTUM, DECAY = 50, 0.5, 0.9, 0.1


def tokens(seed: int) -> tuple[Tensor, Tensor]:
    """A batch of token ids and the ids that follow them."""
    found = torch.randint(0, 65, (8, 17), generator=torch.Generator().manual_seed(seed))
    return found[:, :-1], found[:, 1:]


def images(seed: int) -> tuple[Tensor, Tensor]:
    """A batch of images and their classes."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(16, 3, 4, 4, generator=generator), torch.randint(0, 10, (16,), generator=generator)


def loss_of(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy over all places."""
    return F.cross_entropy(outputs.flatten(0, -2), targets.flatten())


def plain_package() -> Any:
    """The same of the package."""
    linear, bond = modula.compound.Linear, modula.compound.ScaledReLU
    return linear(48, 48) @ bond() @ linear(48, 48) @ bond() @ linear(48, 48) @ modula.compound.Flatten()


Batch = Callable[[int], tuple[Tensor, Tensor]]
CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any], Batch, float]] = {
    "mlp": (lambda: nets.MLP(3, "scaled relu", 48), plain_package, images, 5.0),
    "resmlp": (
        lambda: nets.ResMLP(32, 3, 2, 48, 10), lambda: modula.compound.ResMLP(32, 3, 2, 48, 10), images, 1.0
    ),
    "rescnn": (lambda: nets.ResCNN(8, 2, 2, 3, 10), lambda: modula.compound.ResCNN(8, 2, 2, 3, 10), images, 20.0),
    "gpt": (
        lambda: nets.GPT(65, 16, 4, 32, 8, 8, 2), lambda: modula.compound.GPT(65, 16, 4, 32, 8, 8, 2), tokens, 5.0
    ),
}  # fmt: skip


def rate(step: int) -> float:
    """A linear decay to zero."""
    return 1 - step / STEPS


def trained_by_package(module: Any, weights: Vector, batch: Batch) -> None:
    """The loop of the paper: an average without bias, normalize, step, regularize."""
    average: Any = 0
    for step in range(STEPS):
        inputs, targets = batch(step)
        loss_of(module(inputs, weights), targets).backward()
        grad = Vector([tensor.grad.clone() for tensor in weights])
        with torch.no_grad():
            average = grad if step == 0 else average + (grad - average) * (1 - MOMENTUM) ** (step / (step + 1))
            update = copy.deepcopy(average)
            module.normalize(update, target_norm=LR * rate(step))
            for tensor, change in zip(weights, update, strict=True):
                tensor -= change
            module.regularize(weights, strength=LR * rate(step) * DECAY)
        weights.zero_grad()


def trained_here(model: nn.Module, opt: Any, batch: Batch) -> None:
    """The usual loop."""
    schedule = torch.optim.lr_scheduler.LambdaLR(opt, rate)
    for step in range(STEPS):
        inputs, targets = batch(step)
        loss_of(model(inputs), targets).backward()
        opt.step()
        opt.zero_grad()
        schedule.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_fifty_steps_equal_the_package_s(name: str, dtype: torch.dtype) -> None:
    """Weights within round-off of each other (bounds are of how far they moved)."""
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
                first = start(torch.zeros(tensor.shape[1], dtype=dtype))
                leaf.u = first.reshape(-1, *(1 for _ in tensor.shape[2:])).expand(tensor.shape[1:]).clone()
                leaf.v = torch.empty(tensor.shape[0], dtype=dtype)
    begun = [parameter.detach().clone() for parameter, _ in pairs]
    options: dict[str, Any] = {"gains": "modula", "blocks_mass": blocks_mass, "project_embeddings": True}
    opt = normc.compile(
        model, batch(0)[0].to(dtype) if name != "gpt" else batch(0)[0], recipe="modula", options=options, lr=LR,
        momentum=MOMENTUM, weight_decay=DECAY, compile=False,
    )  # fmt: skip
    trained_here(model, opt, wide)
    trained_by_package(theirs, weights, wide)
    worst = 0.0
    for (parameter, leaf), tensor, first in zip(pairs, weights, begun, strict=True):
        ours, other = parameter.detach(), package.factor(leaf) * tensor.detach()
        moved = float((ours - first).square().mean().sqrt())
        worst = max(worst, float((ours - other).abs().max()) / moved)
        assert moved > 0.01 * float(first.square().mean().sqrt())
    assert worst < (1e-4 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("name", CASES)
def test_a_dual_step_has_the_target_s_norm_and_is_steepest(name: str) -> None:
    """From zero weights: each matrix's (slice's, row's) norm is lr times its target, and its dot product the dual."""
    make, _, batch, _ = CASES[name]
    torch.manual_seed(0)
    model, inputs = make(), batch(0)
    loss_of(model(inputs[0]), inputs[1]).backward()
    options: dict[str, Any] = {"gains": "modula", "polynomial": "exact"}
    opt = normc.compile(model, batch(0)[0], recipe="modular-dual", options=options, lr=LR, compile=False)
    begun = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
    opt.step()
    for key, parameter in model.named_parameters():
        row, grad = opt.plan[key], parameter.grad
        assert grad is not None
        step = (begun[key] - parameter.detach()).double()
        dual: Tensor
        if row.norm == "colnorm":
            used = grad.norm(dim=1) > 0
            assert not step[~used].any()
            sizes = step[used].square().mean(1).sqrt()
            torch.testing.assert_close(sizes, torch.full_like(sizes, LR * row.target), atol=1e-6, rtol=1e-5)
            dual = grad.double().norm(dim=1).sum() * math.sqrt(row.shape[1])
        else:
            slices = step.flatten(2).permute(2, 0, 1) if step.dim() == 4 else step[None]
            factor = math.sqrt(row.shape[0] / row.shape[1]) / len(slices)
            norms = torch.linalg.matrix_norm(slices, 2) / factor
            torch.testing.assert_close(norms, torch.full_like(norms, LR * row.target), atol=1e-6, rtol=1e-5)
            own = grad.double().flatten(2).permute(2, 0, 1) if step.dim() == 4 else grad.double()[None]
            dual = torch.linalg.matrix_norm(own, "nuc").sum() * factor
        assert float((grad.double() * step).sum()) == pytest.approx(LR * row.target * float(dual), rel=1e-3)
