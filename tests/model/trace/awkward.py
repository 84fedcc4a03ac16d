"""Hand-written modules that tracers stumble over: writes through views, control flow on values, odd outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class InPlace(nn.Module):
    """Whole writes, writes through views, and masked writes, each read afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.shift, self.token = nn.Linear(6, 6), nn.Parameter(torch.randn(2)), nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, 6]."""
        y = self.up(x)
        y.add_(1.0)
        y[:, :2] += self.shift
        y[y > 2.0] = 0.5
        y[0] = self.token
        y.view(-1)[3:5].mul_(2.0)
        y.unsqueeze_(1)
        return y * 2


class Branching(nn.Module):
    """Asks about its inputs (known) and about its weights (guessed)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """x: [batch, time, 4]; lengths: [batch]."""
        longest = int(lengths.max().item())
        x = x[:, :longest]
        if (lengths < longest).any():
            x = self.a(x)
        mask = torch.arange(longest) < lengths[:, None]
        rows = x[mask]
        return self.b(rows).sum() / mask.sum().item()


class Double(torch.autograd.Function):
    """A custom function: autograd does not record its forward, yet gradients pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        """2 x w^T."""
        ctx.save_for_backward(x, w)
        return 2 * x @ w.t()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Of both operands."""
        x, w = ctx.saved_tensors
        return 2 * grad @ w, 2 * grad.t() @ x


class Custom(nn.Module):
    """Calls an autograd function, then something under no_grad."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(3, 4))

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, 4]."""
        y = Double.apply(x, self.w)
        with torch.no_grad():
            size = y.abs().mean()
        return y / size


class Checkpointed(nn.Module):
    """Both kinds of activation checkpointing, with dropout inside."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Dropout(0.5), nn.Linear(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, 4]."""
        x = checkpoint(self.inner, x, use_reentrant=False)
        return checkpoint(self.inner, x, use_reentrant=True)


class Listed(nn.Module):
    """A ParameterList, a tie through a plain list, and a parameter that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(torch.randn(4, 4)) for _ in range(3)])
        self.again = self.weights[0]
        self.held = [self.weights[1]]
        self.unused = nn.Parameter(torch.randn(2))

    def forward(self, x: Tensor) -> dict[str, Any]:
        """x: [batch, 4]."""
        for w in self.weights:
            x = x @ w
        a, b = (x @ self.held[0] @ self.again).chunk(2, dim=-1)
        return {"pair": (a, b), "deep": [a.unbind(0), "text"]}


@dataclass
class Result:
    """An output that is no container that torch knows."""

    logits: Tensor
    note: str


class Caching(nn.Module):
    """Changes everything about itself that it can while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.seen: Tensor
        self.register_buffer("seen", torch.zeros(4))
        self.calls = 0
        self.log: list[Tensor] = []
        self.table: dict[str, Tensor] = {}
        self.cached: Tensor | None = None
        self.running = torch.ones(4)

    def forward(self, x: Tensor) -> Result:
        """x: [batch, 4]."""
        self.calls += 1
        self.log.append(x)
        self.table["last"] = self.linear(x)
        self.cached = torch.cos(x.mean(0))
        self.running.mul_(0.9).add_(x.mean(0))
        self.seen += x.detach().mean(0)
        y = nn.functional.dropout(self.norm(self.table["last"]) * self.cached + self.running, 0.3, self.training)
        return Result(y + self.seen, "kept")


class Force(nn.Module):
    """A gradient inside forward, as in energy models."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, 3]; minus the gradient of the energy."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return -torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)[0]


class Recurrent(nn.Module):
    """An LSTM of two layers and a GRU cell."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.cell = nn.LSTM(4, 6, num_layers=2, batch_first=True), nn.GRUCell(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, time, 4]."""
        y, _ = self.lstm(x)
        state = x.new_zeros(x.shape[0], 5)
        for step in y.unbind(1):
            state = self.cell(step, state)
        return state


class Convolutions(nn.Module):
    """Batch, group and instance norms, a grouped and a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3, groups=4),
            nn.GroupNorm(2, 8), nn.ConvTranspose2d(8, 4, 2, stride=2), nn.InstanceNorm2d(4, affine=True), nn.Flatten(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, 3, 8, 8]."""
        return self.body(x)
