"""Layers that several families share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Attention of heads of `size`, on x itself or on `memory`; with rotary positions if `rotary`."""

    def __init__(self, width: int, size: int, *, causal: bool, rotary: bool = False, bias: bool = True) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=bias) for _ in range(4))
        self.size, self.causal, self.rotary = size, causal, rotary

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        """[batch, time, width] -> the same."""
        source = x if memory is None else memory
        q = self.q(x).unflatten(-1, (-1, self.size)).transpose(1, 2)
        k = self.k(source).unflatten(-1, (-1, self.size)).transpose(1, 2)
        v = self.v(source).unflatten(-1, (-1, self.size)).transpose(1, 2)
        if self.rotary:
            q, k = turned(q), turned(k)
        out: Tensor = self.o(F.scaled_dot_product_attention(q, k, v, is_causal=self.causal).transpose(1, 2).flatten(2))
        return out


def turned(x: Tensor) -> Tensor:
    """Turn the two halves of each head by the angles of their places (rotary positions)."""
    half = x.shape[-1] // 2
    speed = 10_000.0 ** (-torch.arange(half, device=x.device) / half)
    angle = torch.arange(x.shape[-2], device=x.device)[:, None] * speed
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)


class Mlp(nn.Module):
    """Two layers around a GELU."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> the same."""
        out: Tensor = self.down(F.gelu(self.up(x)))
        return out


class Block(nn.Module):
    """Attention and an MLP, each behind a layer norm."""

    def __init__(self, width: int, size: int, *, causal: bool) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.mlp = Attention(width, size, causal=causal), Mlp(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, time, width] -> the same."""
        x = x + self.attention(self.first(x))
        out: Tensor = x + self.mlp(self.second(x))
        return out


def small(model: nn.Module, deviation: float = 0.02) -> None:
    """Draw matrices and embeddings from a normal distribution, as GPT-2 does, and set biases to zero."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=deviation)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


def next_token(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the mean cross entropy of the next tokens."""
    return F.cross_entropy(model(batch["ids"]).flatten(0, 1), batch["next"].flatten())


def classified(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the mean cross entropy of the labels."""
    return F.cross_entropy(model(batch["x"]), batch["label"])
