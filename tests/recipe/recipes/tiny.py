"""A small GPT, and training steps of two optimizers side by side."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import normc
from normc.compiler import build
from normc.plans.plan import NormPlan

VOCABULARY, CONTEXT = 17, 8


class Attention(nn.Module):
    """Two heads; queries, keys and values in one matrix if `fused`. Keys have no bias: it would get no gradient."""

    def __init__(self, width: int, fused: bool) -> None:
        super().__init__()
        if fused:
            self.qkv = nn.Linear(width, 3 * width, bias=False)
        else:
            self.q, self.k, self.v = (nn.Linear(width, width, bias=part != "k") for part in "qkv")
        self.out = nn.Linear(width, width)
        self.fused = fused

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, length, width]."""
        q, k, v = self.qkv(x).chunk(3, -1) if self.fused else (self.q(x), self.k(x), self.v(x))
        q, k, v = (part.unflatten(-1, (2, -1)).transpose(1, 2) for part in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return out


class TinyGPT(nn.Module):
    """Embeddings of tokens and places, pre-norm blocks, a convolution over time, biases, a head."""

    def __init__(self, width: int = 16, layers: int = 2, fused: bool = False, conv: bool = False) -> None:
        super().__init__()
        self.shape = {"width": width, "layers": layers, "fused": fused, "conv": conv}
        self.tok, self.pos = nn.Embedding(VOCABULARY, width), nn.Embedding(CONTEXT, width)
        self.conv = nn.Conv1d(width, width, 3, padding=1) if conv else None
        self.norm1 = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers))
        self.attention = nn.ModuleList(Attention(width, fused) for _ in range(layers))
        self.norm2 = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers))
        self.up = nn.ModuleList(nn.Linear(width, 4 * width) for _ in range(layers))
        self.down = nn.ModuleList(nn.Linear(4 * width, width) for _ in range(layers))
        self.last = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCABULARY, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: [batch, length]."""
        x = self.tok(tokens) + self.pos(torch.arange(tokens.shape[1], device=tokens.device))
        if self.conv is not None:
            x = x + self.conv(x.transpose(1, 2)).transpose(1, 2)
        for n1, a, n2, up, down in zip(self.norm1, self.attention, self.norm2, self.up, self.down, strict=True):
            x = x + a(n1(x))
            x = x + down(F.gelu(up(n2(x))))
        out: Tensor = self.head(self.last(x))
        return out


def tokens(seed: int) -> Tensor:
    """A batch."""
    return torch.randint(0, VOCABULARY, (4, CONTEXT + 1), generator=torch.Generator().manual_seed(seed))


def loss(model: nn.Module, seed: int) -> Tensor:
    """Of the next token."""
    batch = tokens(seed)
    return F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())


def made(dtype: torch.dtype = torch.float32, **shape: Any) -> TinyGPT:
    """The same weights each time."""
    torch.manual_seed(0)
    return TinyGPT(**shape).to(dtype)


@lru_cache
def planned(recipe: str, options: tuple[tuple[str, Any], ...], **shape: Any) -> NormPlan:
    """The plan of `made`'s model."""
    return normc.plan(made(**shape), (tokens(0)[:, :-1],), recipe=recipe, options=dict(options))


def ours(model: TinyGPT, recipe: str, lr: float, options: Mapping[str, Any] | None = None, **values: Any) -> Any:
    """normc's optimizer of a planned model, uncompiled."""
    plan = planned(recipe, tuple((options or {}).items()), dtype=next(model.parameters()).dtype, **model.shape)
    return build(plan, model.named_parameters(), lr=lr, compile=False, **values)


def train(model: nn.Module, opt: Any, steps: int = 50) -> None:
    """Plain steps."""
    for seed in range(steps):
        loss(model, seed).backward()
        opt.step()
        opt.zero_grad()


def difference(
    model: TinyGPT, one: Callable[[TinyGPT], Any], two: Callable[[TinyGPT], Any], steps: int = 50
) -> tuple[float, float]:
    """The largest difference of two optimizers' weights, and the largest change, from the same weights and batches."""
    other, start = copy.deepcopy(model), copy.deepcopy(model)
    train(model, one(model), steps)
    train(other, two(other), steps)
    pairs = zip(model.parameters(), other.parameters(), start.parameters(), strict=True)
    found = [(float((x - y).detach().abs().max()), float((x - z).detach().abs().max())) for x, y, z in pairs]
    return max(apart for apart, _ in found), min(moved for _, moved in found)
