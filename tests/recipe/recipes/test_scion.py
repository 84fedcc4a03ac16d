"""Scion, its light form and ALMOND over 50 steps, against pytorch_optimizer and loops written from the paper."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
from torch import nn

from normc.compiler import build
from normc.errors import NormcError
from normc.plans.geometry import norms
from normc.recipe.by_name import recipes
from normc.update.ops.matrices import polar
from normc.update.polynomials.by_name import KELLER
from tests.beside import TinyGPT, apart, difference, fresh, role_of, rows_of, train
from tests.handmade import draft, plan_of

Named = dict[str, nn.Parameter]
RADII = {"hidden": 3.0, "output": 10.0, "embedding": 1.0, "position": 0.1, "gain": 0.3, "bias": 0.3}


def groups(named: Named) -> list[dict[str, Any]]:
    """The package's groups with the norm and the radius of each role."""
    from pytorch_optimizer.optimizer.scion import LMONorm

    kinds = {"hidden": LMONorm.SPECTRAL, "output": LMONorm.SIGN, "embedding": LMONorm.COL, "position": LMONorm.COL}
    found = []
    for name, parameter in named.items():
        role = role_of(name, parameter)
        turned = {"transpose": True} if role in ("embedding", "position") else {}
        kind = kinds.get(role, LMONorm.BIAS)
        found.append({"params": [parameter], "norm_type": kind, "norm_kwargs": turned, "scale": RADII[role]})
    return found


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """The package's Newton-Schulz in the weights' dtype instead of bf16."""
    pytest.importorskip("pytorch_optimizer")
    from pytorch_optimizer.optimizer import scion

    own = functools.partial(scion.zero_power_via_newton_schulz_5, dtype=dtype)
    monkeypatch.setattr(scion, "zero_power_via_newton_schulz_5", own)


# The package adds 1e-8 to the sizes that it divides by; without that both agree to 1e-15.
@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("recipe", "theirs", "values"),
    [("scion", {"constraint": True}, {}), ("uscion", {"weight_decay": 0.1}, {"weight_decay": 0.1})],
)
def test_scion_equals_the_package(
    dtype: torch.dtype, recipe: str, theirs: dict[str, Any], values: dict[str, Any]
) -> None:
    from pytorch_optimizer import SCION

    def originals(named: Named) -> list[Any]:
        return [SCION(groups(named), lr=2e-3, **theirs)]

    assert apart(dtype, recipe, originals, 2e-3, {"polynomial": "keller"}, values) <= 5e-6


def trained(recipe: str, dtype: torch.dtype, **options: Any) -> TinyGPT:
    """Fifty steps of a recipe."""
    model = fresh(dtype)
    opt = build(plan_of(rows_of(model), recipe, **options), model.named_parameters(), lr=2e-3, compile=False,
                backend="cpu:fp32")  # fmt: skip
    train(model, [opt], zero=recipe != "scion-light")
    return model


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 2e-15), (torch.float32, 2e-6)])
@pytest.mark.parametrize("constrained", [True, False])
def test_scion_light_steps_as_scion_does(dtype: torch.dtype, tolerance: float, constrained: bool) -> None:
    light = trained("scion-light", dtype, constrained=constrained)
    assert difference(light, trained("scion" if constrained else "uscion", dtype)) <= tolerance


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_scion_light_equals_the_package(dtype: torch.dtype) -> None:
    from pytorch_optimizer import SCIONLight

    theirs = fresh(dtype)
    train(theirs, [SCIONLight(groups(dict(theirs.named_parameters())), lr=2e-3, constraint=True)], zero=False)
    assert difference(trained("scion-light", dtype, polynomial="keller"), theirs) <= 2e-6


def unit(role: str, g: torch.Tensor) -> torch.Tensor:
    """The paper's table of LMOs, without the radius."""
    if role == "hidden":
        return math.sqrt(g.shape[0] / g.shape[1]) * polar(g.unsqueeze(0), (KELLER,) * 5)[0]
    if role == "output":
        return g.sign() / g.shape[1]
    size = g.square().mean(-1, keepdim=True).sqrt()
    return g / torch.where(size > 0, size, 1.0)


class Paper:
    """Algorithms 1, 2 and 4 of arXiv 2502.07529, as they are written there."""

    def __init__(self, named: Named, algorithm: int, gamma: float) -> None:
        self.named, self.algorithm, self.gamma = named, algorithm, gamma
        self.d = {name: torch.zeros_like(w) for name, w in named.items()}

    @torch.no_grad()
    def step(self) -> None:
        for name, w in self.named.items():
            assert w.grad is not None
            role = role_of(name, w)
            rho, new = RADII[role], w.grad if self.algorithm != 4 else -RADII[role] * unit(role, w.grad)
            self.d[name] = 0.1 * new + 0.9 * self.d[name]
            step = self.d[name] if self.algorithm == 4 else -rho * unit(role, self.d[name])
            w.copy_((1 - self.gamma * (self.algorithm == 2)) * w + self.gamma * step)


@pytest.mark.parametrize(("recipe", "algorithm"), [("uscion", 1), ("scion", 2), ("almond", 4)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 5e-6)])
def test_recipes_equal_the_paper(dtype: torch.dtype, tolerance: float, recipe: str, algorithm: int) -> None:
    lr = 1e-2 if recipe == "almond" else 2e-3
    found = apart(dtype, recipe, lambda named: [Paper(named, algorithm, lr)], lr, {"polynomial": "keller"})
    assert found <= tolerance


def test_weight_decay_of_uscion_is_scion_with_a_larger_radius() -> None:
    """x + gamma rho lmo - gamma mu x is a convex step of gamma mu towards the ball of radius rho / mu."""
    mu, lr, dtype = 0.25, 2e-3, torch.float64
    larger: dict[str, Any] = {f"radius_{key}": value / mu for key, value in
              {"hidden": 3.0, "output": 10.0, "embedding": 1.0, "position": 0.1, "vector": 0.3}.items()}  # fmt: skip
    models = [fresh(dtype) for _ in range(2)]
    free = build(plan_of(rows_of(models[0]), "uscion"), models[0].named_parameters(), lr=lr, weight_decay=mu,
                 compile=False)  # fmt: skip
    tied = build(plan_of(rows_of(models[1]), "scion", **larger), models[1].named_parameters(), lr=lr * mu,
                 compile=False)  # fmt: skip
    train(models[0], [free])
    train(models[1], [tied])
    assert difference(*models) <= 1e-14
    w = nn.Parameter(torch.zeros(6, 4))
    opt = build(plan_of([draft("w", (6, 4), "output")], "uscion"), [("w", w)], lr=0.1, weight_decay=mu, compile=False)
    for _ in range(400):
        w.grad = torch.ones(6, 4)
        opt.step()
    assert float(w.detach().abs().max()) == pytest.approx(10 / 4 / mu, rel=1e-3)


@pytest.mark.parametrize("norm", sorted(norms))
@pytest.mark.parametrize("shape", [(7, 5), (5, 7)])
def test_a_cap_is_the_nearest_point_of_the_norms_ball(norm: str, shape: tuple[int, int]) -> None:
    """In the ball, idle inside of it, and no point of the ball is nearer (the angle to each is obtuse)."""
    generator = torch.Generator().manual_seed(5)
    row = draft("w", shape, "hidden", dtype="float64")
    plan = plan_of([row], "uscion", cap=1.0, radius_hidden=0.5).override("w", norm=norm)
    bound = plan.rows[0].scale.value
    start = torch.randn(shape, generator=generator, dtype=torch.float64)
    start *= 3 * bound / float(norms[norm].measure(start.unsqueeze(0)).max())
    w = nn.Parameter(start.clone())
    opt = build(plan, [("w", w)], lr=0.0, compile=False)
    w.grad = torch.zeros_like(w)
    opt.step()
    inside = w.detach().clone()
    assert float(norms[norm].measure(inside.unsqueeze(0)).max()) == pytest.approx(bound)
    for _ in range(20):
        other = torch.randn(shape, generator=generator, dtype=torch.float64)
        other *= bound / float(norms[norm].measure(other.unsqueeze(0)).max())
        assert float(((start - inside) * (other - inside)).sum()) <= 1e-9
    opt.step()
    torch.testing.assert_close(w.detach(), inside)
    half = w.detach().mul_(0.5).clone()
    opt.step()
    assert torch.equal(w.detach(), half)


def test_caps_hold_each_block_and_steps_may_be_cautious() -> None:
    from normc.plans.row import Block

    blocks = tuple(Block(name, 0, ((4 * i, 4 * i + 4),)) for i, name in enumerate("qkv"))
    w = nn.Parameter(5 * torch.randn(12, 6, generator=torch.Generator().manual_seed(1)))
    plan = plan_of([draft("w", (12, 6), "hidden", blocks=blocks)], "uscion", cap=2.0, cautious=True)
    w.grad = torch.randn(12, 6, generator=torch.Generator().manual_seed(2))
    build(plan, [("w", w)], lr=1e-3, compile=False).step()
    for part in w.detach().split(4):
        assert float(torch.linalg.matrix_norm(part, 2)) == pytest.approx(2 * 3 * math.sqrt(4 / 6), rel=1e-5)
    with pytest.raises(NormcError, match="capped at -1"):
        plan_of([draft("w", (12, 6), "hidden")], "uscion", cap=-1.0)


def test_scion_light_holds_no_state() -> None:
    assert plan_of([draft("w", (8, 4), "hidden")], "scion-light").rows[0].state_bytes == 0
    assert recipes["scion-light"].option("radius_hidden") == recipes["scion"].option("radius_hidden")
