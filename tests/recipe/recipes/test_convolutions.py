"""Recipes of matrices on convolutions, over 50 steps: a filter is a row, as it is for originals that handle them."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import normc
from normc.plans.plan import NormPlan
from tests.ties import firm_bases

package = pytest.importorskip("pytorch_optimizer")

STEPS = 50
Originals = Callable[["Net", NormPlan], list[Any]]


class Net(nn.Module):
    """Convolutions over images, one of them strided and one over single pixels, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.down = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 24, 3, stride=2, padding=1)
        self.mix, self.norm, self.head = nn.Conv2d(24, 24, 1), nn.GroupNorm(4, 24), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.down(F.gelu(self.first(x))))
        return self.head((x + self.mix(self.norm(x))).mean((2, 3)))


def batch(seed: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Random images, and classes that follow from them."""
    images = torch.randn(16, 3, 6, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return images.to(dtype), (images.mean((2, 3)) * 40).long().sum(1) % 10


def train(model: Net, opts: list[Any], dtype: torch.dtype) -> None:
    for seed in range(STEPS):
        images, classes = batch(seed, dtype)
        F.cross_entropy(model(images), classes).backward()
        for opt in opts:
            opt.step()
        model.zero_grad()


def apart(dtype: torch.dtype, recipe: str, originals: Originals, lr: float, options: dict[str, Any]) -> float:
    """The largest difference of two weights, what is rounding alone left out: a logit's size that moves no loss."""
    torch.manual_seed(0)
    ours = Net().to(dtype)
    theirs, start = copy.deepcopy(ours), copy.deepcopy(ours)
    plan = normc.plan(ours, batch(0, dtype)[0], recipe=recipe, options=options)
    opt = normc.compile(ours, plan=plan, lr=lr, backend="cpu:fp32", compile=False)
    train(ours, [opt], dtype)
    train(theirs, originals(theirs, plan), dtype)
    gaps = []
    for (name, mine), other, first in zip(
        ours.named_parameters(), theirs.parameters(), start.parameters(), strict=True
    ):
        assert float((mine - first).detach().abs().max()) > 1e-3
        gap = (mine - other).detach()
        gaps.append(float((gap - gap.mean(0) if name.startswith("head") else gap).abs().max()))
    return max(gaps)


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """The package's Newton-Schulz in the weights' dtype instead of bf16."""
    from pytorch_optimizer.optimizer import scion
    from pytorch_optimizer.optimizer.muon import base

    for module in (scion, base):
        own = functools.partial(module.zero_power_via_newton_schulz_5, dtype=dtype)
        monkeypatch.setattr(module, "zero_power_via_newton_schulz_5", own)


def shares(model: Net, plan: NormPlan, rule: str) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters that a rule has, and the rest."""
    named = dict(model.named_parameters())
    return [named[row.name] for row in plan if row.rule == rule], [named[row.name] for row in plan if row.rule != rule]


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
def test_muon_equals_the_package(dtype: torch.dtype, tolerance: float) -> None:
    """Both multiply by sqrt(max(1, out / in)), the window being part of the fan-in."""

    def originals(model: Net, plan: NormPlan) -> list[Any]:
        hidden, rest = shares(model, plan, "lmo")
        assert len(hidden) == 3
        matrices = {"params": hidden, "use_muon": True, "lr": 5e-3}
        return [package.Muon([matrices, {"params": rest, "use_muon": False, "lr": 5e-3, "eps": 1e-10}])]

    assert apart(dtype, "muon", originals, 5e-3, {"dialect": "keller"}) <= tolerance


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("recipe", "constraint"), [("scion", True), ("uscion", False)])
def test_scion_equals_the_package(dtype: torch.dtype, recipe: str, constraint: bool) -> None:
    """SpectralConv: U V^T of all filters, by sqrt(out / in) over the window. The package adds 1e-8 to sizes."""
    from pytorch_optimizer.optimizer.scion import LMONorm

    def originals(model: Net, plan: NormPlan) -> list[Any]:
        groups = []
        for name, w in model.named_parameters():
            kind = LMONorm.SPECTRALCONV if w.dim() == 4 else LMONorm.SIGN if w.dim() == 2 else LMONorm.BIAS
            radius = 3.0 if w.dim() == 4 else 10.0 if w.dim() == 2 else 0.3
            if name == "first.weight":  # an input: its radius is 1, and times sqrt(out / in) where that is more than 1
                radius = plan[name].scale.value / ((w.shape[0] / w.shape[1]) ** 0.5 / w[0, 0].numel())
            groups.append({"params": [w], "norm_type": kind, "norm_kwargs": {}, "scale": radius})
        return [package.SCION(groups, lr=2e-3, constraint=constraint)]

    assert apart(dtype, recipe, originals, 2e-3, {"polynomial": "keller"}) <= 5e-6


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-5), (torch.float32, 5e-3)])
def test_soap_equals_the_package_with_merged_axes(
    dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It merges axes as they come, up to so many entries: here those of fan-in and window. It runs QR in float32."""
    firm_bases(monkeypatch)

    def originals(model: Net, plan: NormPlan) -> list[Any]:
        groups: list[dict[str, Any]] = [{"params": [w for w in model.parameters() if w.dim() < 4]}]
        for w in model.parameters():
            if w.dim() == 4:
                assert w.shape[0] * w.shape[1] > w[0].numel() >= w.shape[0]
                groups.append({"params": [w], "merge_dims": True, "max_precondition_dim": w[0].numel()})
        return [package.SOAP(groups, lr=3e-3)]

    assert apart(dtype, "soap", originals, 3e-3, {}) <= tolerance


class Flattened:
    """An optimizer that is given the filters as rows of matrices."""

    def __init__(self, model: Net, make: Callable[[list[nn.Parameter]], Any]) -> None:
        self.parameters = list(model.parameters())
        self.views = [nn.Parameter(p.detach().flatten(1) if p.dim() > 1 else p.detach()) for p in self.parameters]
        self.own = make(self.views)

    def step(self) -> None:
        for view, parameter in self.pairs():
            assert parameter.grad is not None
            view.grad = parameter.grad.reshape(view.shape).clone()
        self.own.step()

    def pairs(self) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
        return zip(self.views, self.parameters, strict=True)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_shampoo_equals_the_package_on_matrices_of_filters(dtype: torch.dtype, tolerance: float) -> None:
    """On filters as they are the package has a factor for each axis, and other powers for that."""

    def originals(model: Net, plan: NormPlan) -> list[Any]:
        return [Flattened(model, lambda views: package.Shampoo(views, lr=3e-3))]

    assert apart(dtype, "shampoo", originals, 3e-3, {}) <= tolerance
