"""Hyperball: matrices stay on their sphere, and steps are those of the formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normc.compiler import build
from normc.errors import NormcError
from normc.plans.row import Block
from normc.update.ops.matrices import polar
from normc.update.polynomials.by_name import KELLER
from tests.beside import apart, role_of
from tests.handmade import draft, plan_of


class Spheres:
    """W = R unit(W - lr R unit(u)), with R = ||W_0||, and u by Adam or Muon."""

    def __init__(self, hidden: list[nn.Parameter], lr: float, direction: str) -> None:
        self.hidden, self.lr, self.direction, self.t = hidden, lr, direction, 0
        self.radii = [float(torch.linalg.vector_norm(w.detach())) for w in hidden]
        self.m, self.v = ([torch.zeros_like(w) for w in hidden] for _ in range(2))

    @torch.no_grad()
    def step(self) -> None:
        self.t += 1
        for i, (w, radius) in enumerate(zip(self.hidden, self.radii, strict=True)):
            assert w.grad is not None
            self.m[i] = 0.9 * self.m[i] + 0.1 * w.grad
            self.v[i] = 0.95 * self.v[i] + 0.05 * w.grad**2
            if self.direction == "adam":
                u = self.m[i] / (1 - 0.9**self.t) / ((self.v[i] / (1 - 0.95**self.t)).sqrt() + 1e-8)
            else:
                u = polar((0.1 * w.grad + 0.9 * self.m[i]).unsqueeze(0), (KELLER,) * 5)[0]
            moved: Tensor = w - self.lr * radius * u / torch.linalg.vector_norm(u)
            w.copy_(radius * moved / torch.linalg.vector_norm(moved))


@pytest.mark.parametrize("direction", ["adam", "muon"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
def test_hyperball_equals_its_formula(dtype: torch.dtype, tolerance: float, direction: str) -> None:
    def originals(named: dict[str, nn.Parameter]) -> list[Any]:
        hidden = [parameter for name, parameter in named.items() if role_of(name, parameter) == "hidden"]
        rest = [parameter for name, parameter in named.items() if role_of(name, parameter) != "hidden"]
        adamw = torch.optim.AdamW(rest, 5e-3, betas=(0.9, 0.95), weight_decay=0.0)
        return [Spheres(hidden, 5e-3, direction), adamw]

    assert apart(dtype, "hyperball", originals, 5e-3, {"direction": direction}) <= tolerance


@pytest.mark.parametrize("spans", [((0, 4), (4, 8), (8, 12)), ((0, 2), (2, 4), (4, 12))])
def test_each_block_keeps_its_own_norm(spans: tuple[tuple[int, int], ...]) -> None:
    blocks = tuple(Block(f"{i}", 0, (span,)) for i, span in enumerate(spans))
    w = nn.Parameter(torch.randn(12, 6, generator=torch.Generator().manual_seed(1)))
    start = w.detach().clone()
    opt = build(plan_of([draft("w", (12, 6), "hidden", blocks=blocks)], "hyperball"), [("w", w)], lr=0.3, compile=False)
    for seed in range(3):
        w.grad = torch.randn(12, 6, generator=torch.Generator().manual_seed(seed))
        opt.step()
    for low, high in spans:
        assert float(w.detach()[low:high].norm()) == pytest.approx(float(start[low:high].norm()), rel=1e-6)
        assert not torch.allclose(w.detach()[low:high], start[low:high], atol=0.1)


def test_an_unknown_direction_is_refused() -> None:
    with pytest.raises(NormcError, match="adam, muon"):
        plan_of([draft("w", (4, 3), "hidden")], "hyperball", direction="other")
