"""No target grows exponentially with depth, whatever the layers are: at most as a low power of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import normc

WIDTH = 8
DEPTHS = (2, 8, 48)
POWER = 0.6  # a stream of independent branches has r ~ sqrt(depth), and a target goes as r


class Attention(nn.Module):
    """Attention and an MLP, normed before each or after."""

    def __init__(self, post: bool) -> None:
        super().__init__()
        self.post = post
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def attend(self, x: Tensor) -> Tensor:
        """Two heads."""
        q, k, v = (part.unflatten(-1, (2, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, time, width]."""
        if self.post:
            x = self.first(x + self.attend(x))
            out: Tensor = self.second(x + self.down(F.gelu(self.up(x))))
            return out
        x = x + self.attend(self.first(x))
        return x + self.down(F.gelu(self.up(self.second(x))))


class Experts(nn.Module):
    """Softmax over three experts, each run on all and weighted, after a norm, on a stream."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.gate = nn.RMSNorm(WIDTH), nn.Linear(WIDTH, 3, bias=False)
        self.up = nn.Parameter(torch.randn(3, WIDTH, 2 * WIDTH))
        self.down = nn.Parameter(torch.randn(3, 2 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, time, width]."""
        y = self.norm(x)
        weights = self.gate(y).softmax(-1)
        hidden = F.relu(torch.einsum("btd,edh->bteh", y, self.up))
        return x + torch.einsum("bteh,ehd,bte->btd", hidden, self.down, weights)


class Scan(nn.Module):
    """A selective state space: a step per place, decays that depend on the input, in closed form and in a loop."""

    def __init__(self, loop: bool) -> None:
        super().__init__()
        self.loop = loop
        self.norm, self.inner = nn.RMSNorm(WIDTH), nn.Linear(WIDTH, 2 * WIDTH)
        self.step, self.rate = nn.Linear(WIDTH, WIDTH), nn.Parameter(torch.zeros(WIDTH))
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, time, width]."""
        value, gate = self.inner(self.norm(x)).chunk(2, dim=-1)
        decay = -F.softplus(self.step(self.norm(x))) * torch.exp(self.rate)
        if self.loop:
            state, states = torch.zeros_like(value[:, 0]), []
            for t in range(value.shape[1]):
                state = torch.exp(decay[:, t]) * state + value[:, t]
                states.append(state)
            mixed = torch.stack(states, dim=1)
        else:
            total = decay.cumsum(1)
            places = torch.ones(value.shape[1], value.shape[1], dtype=torch.bool).tril()[None, :, :, None]
            kernel = torch.exp((total[:, :, None] - total[:, None]).masked_fill(~places, -torch.inf))
            mixed = torch.einsum("btsd,bsd->btd", kernel, value)
        out: Tensor = self.out(mixed * F.silu(gate))
        return x + out


class Plain(nn.Module):
    """A layer without a stream: a matrix or a convolution, perhaps a norm, a function."""

    def __init__(self, layer: nn.Module, norm: nn.Module, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.norm, self.function = layer, norm, function

    def forward(self, x: Tensor) -> Tensor:
        """Of x's shape."""
        return self.function(self.norm(self.layer(x)))


def _linear(function: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    return lambda: Plain(nn.Linear(WIDTH, WIDTH), nn.Identity(), function)


def _conv(norm: Callable[[int], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: Plain(nn.Conv2d(WIDTH, WIDTH, 3, padding=1), norm(WIDTH), F.relu)


TOKENS, IMAGES, ROWS = (2, 6, WIDTH), (2, WIDTH, 4, 4), (4, WIDTH)
STACKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], bool]] = {
    "pre-norm transformer": (lambda: Attention(post=False), TOKENS, True),
    "post-norm transformer": (lambda: Attention(post=True), TOKENS, False),
    "experts": (Experts, TOKENS, True),
    "scan in closed form": (lambda: Scan(loop=False), TOKENS, True),
    "scan in a loop": (lambda: Scan(loop=True), TOKENS, True),
    "plain relu": (_linear(F.relu), ROWS, False),
    "plain gelu": (_linear(F.gelu), ROWS, False),
    "plain tanh": (_linear(torch.tanh), ROWS, False),
    "convolutions": (_conv(lambda _: nn.Identity()), IMAGES, False),
    "normed convolutions": (_conv(nn.BatchNorm2d), IMAGES, False),
}


class Stack(nn.Module):
    """A stem, layers, perhaps a last norm, a head."""

    def __init__(self, layer: Callable[[], nn.Module], depth: int, normed: bool, image: bool) -> None:
        super().__init__()
        make = (lambda: nn.Conv2d(WIDTH, WIDTH, 1)) if image else (lambda: nn.Linear(WIDTH, WIDTH))
        self.stem, self.head = make(), make()
        self.layers = nn.ModuleList(layer() for _ in range(depth))
        self.norm = nn.LayerNorm(WIDTH) if normed else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Of x's shape."""
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x)
        out: Tensor = self.head(self.norm(x))
        return out


def steepest(layer: Callable[[], nn.Module], shape: tuple[int, ...], normed: bool, depth: int) -> float:
    """The largest target over mass, 1 / (S R), of all matrices."""
    torch.manual_seed(0)
    plan = normc.plan(Stack(layer, depth, normed, len(shape) == 4), torch.randn(shape), recipe="modular-dual")
    found = []
    for row in plan.rows:
        if row.role in ("input", "hidden", "output"):
            assert row.sensitivity is not None and row.magnitude is not None, row.name
            found.append(1 / (row.sensitivity * row.magnitude))
    return max(found)


@pytest.mark.parametrize("name", STACKS)
def test_no_target_grows_exponentially_with_depth(name: str) -> None:
    found = {depth: steepest(*STACKS[name], depth) for depth in DEPTHS}
    for before, after in itertools.pairwise(DEPTHS):
        growth = math.log(found[after] / found[before]) / math.log(after / before)
        assert growth < POWER, f"{found}: depth^{growth:.2f} from {before} to {after}"
