"""Hyperball: matrices stay on their sphere, and steps are those of the formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normc
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


class Lora(nn.Module):
    """A frozen layer beside two thin ones, of which the second starts at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.head = nn.Linear(8, 8).requires_grad_(False), nn.Linear(8, 3)
        self.down, self.up = nn.Linear(8, 2, bias=False), nn.Linear(2, 8, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.tanh(self.base(x) + self.up(self.down(x))))
        return out


@pytest.mark.parametrize("direction", ["adam", "muon"])
def test_an_adapter_that_starts_at_zero_learns(direction: str) -> None:
    torch.manual_seed(0)
    model, x = Lora(), torch.randn(16, 8)
    options = {"direction": direction}
    opt = normc.compile(model, x, recipe="hyperball", options=options, lr=0.02, compile=False)
    before, down = float(model(x).square().mean().detach()), model.down.weight.detach().norm()
    for _ in range(20):
        opt.zero_grad()
        model(x).square().mean().backward()
        opt.step()
    assert 0.1 < float(model.up.weight.detach().norm()) < 8**0.5
    assert float(model(x).square().mean().detach()) < 0.9 * before
    torch.testing.assert_close(model.down.weight.detach().norm(), down)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(("shape", "radius"), [((6, 4), 6**0.5), ((4, 8), 2**0.5), ((3, 4, 2, 2), (9 / 16) ** 0.5)])
def test_a_block_from_zero_moves_in_its_ball_beside_one_on_its_sphere(
    shape: tuple[int, ...], radius: float, backend: str
) -> None:
    """Plain steps of length lr R, as far as the ball goes: one gradient drives it to the surface, another back."""
    axes: dict[str, Any] = {"kernel_axes": (2, 3)} if len(shape) == 4 else {}
    blocks = tuple(Block(f"{i}", 0, ((i * shape[0], (i + 1) * shape[0]),)) for i in range(2))
    whole = (2 * shape[0], *shape[1:])
    ball, grad = torch.zeros(shape), torch.randn(shape, generator=torch.Generator().manual_seed(5))
    other = torch.randn(shape, generator=torch.Generator().manual_seed(6))
    w = nn.Parameter(torch.cat([ball, other]))
    plan = plan_of([draft("w", whole, "hidden", blocks=blocks, **axes)], "hyperball", direction="muon", nesterov=False)
    opt = build(plan, [("w", w)], lr=0.3, compile=False, momentum=0.0, backend=backend)
    for step in range(8):
        sign = 1.0 if step < 5 else -1.0
        w.grad = sign * torch.cat([grad, other])
        opt.step()
        unit = polar(grad.flatten(1).unsqueeze(0), (KELLER,) * 5)[0].reshape(shape)
        ball = ball - sign * 0.3 * radius * unit / unit.norm()
        ball = ball * min(1.0, radius / float(ball.norm()))
        torch.testing.assert_close(w.detach()[: shape[0]], ball, atol=1e-5, rtol=0)
        assert float(w.detach()[shape[0] :].norm()) == pytest.approx(float(other.norm()), rel=1e-5)
    assert float(opt.state[w]["radius"][0]) == pytest.approx(-radius)


def test_no_gradient_leaves_a_block_at_zero_where_it_is() -> None:
    w = nn.Parameter(torch.zeros(6, 4))
    opt = build(plan_of([draft("w", (6, 4), "hidden")], "hyperball"), [("w", w)], lr=0.3, compile=False)
    w.grad = torch.zeros(6, 4)
    opt.step()
    assert torch.equal(w.detach(), torch.zeros(6, 4))


def test_an_unknown_direction_is_refused() -> None:
    with pytest.raises(NormcError, match="adam, muon"):
        plan_of([draft("w", (4, 3), "hidden")], "hyperball", direction="other")
