"""Steps in Triton's interpreter beside the reference's: what tests of kernels share."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from normc.compiler import build
from normc.update.kernels import cost, normalise
from normc.update.program.module import load
from normc.update.runtime import faults
from tests.handmade import Small, plan_of, small_rows
from tests.update.kernels.interpreting import interpret

pytest.importorskip("triton")

TARGET = "cuda:sm_70"  # Newton-Schulz in float32


@pytest.fixture(autouse=True)
def interpreter(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Kernels run on the CPU, but for those of matrices, which tests/update/kernels tries; loaded modules aren't
    taken from the cache.
    """
    interpret(monkeypatch, normalise, faults)
    monkeypatch.setattr(cost, "LARGEST", 0)
    load.cache_clear()
    yield
    load.cache_clear()


def farthest(first: nn.Module, second: nn.Module) -> float:
    """The largest difference of any two weights."""
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return max(float((one.detach().double() - other.detach().double()).abs().max()) for one, other in pairs)


def pair(recipe: str = "muon") -> tuple[nn.Module, torch.optim.Optimizer, nn.Module, torch.optim.Optimizer]:
    """A model stepped by kernels, and its copy that the reference steps."""
    torch.manual_seed(0)
    ours = Small()
    plain = copy.deepcopy(ours)
    plan = plan_of(small_rows(ours), recipe)
    fast = build(plan, ours.named_parameters(), lr=5e-3, backend=TARGET, compile=False)
    return ours, fast, plain, build(plan, plain.named_parameters(), lr=5e-3, backend="reference")


def give(models: list[nn.Module], step: int, without: tuple[int, ...] = ()) -> None:
    """The same random gradients to models of one shape; none to some parameters."""
    generator = torch.Generator().manual_seed(step)
    for index, same in enumerate(zip(*(model.parameters() for model in models), strict=True)):
        grad = torch.randn(same[0].shape, generator=generator).to(same[0].device)
        for parameter in same:
            parameter.grad = None if index in without else grad.clone()
