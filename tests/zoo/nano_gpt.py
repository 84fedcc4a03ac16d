"""A GPT written by hand, as nanoGPT has it. Golden texts hold this file's line numbers."""

from __future__ import annotations

import torch
from torch import nn


class Attention(nn.Module):
    """nanoGPT's: q, k and v from one linear, split into three."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.c_attn = nn.Linear(width, 3 * width, bias=False)
        self.c_proj = nn.Linear(width, width, bias=False)
        self.heads = heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [batch, time, width]."""
        batch, time, width = x.shape
        q, k, v = self.c_attn(x).split(width, dim=2)
        q, k, v = (t.view(batch, time, self.heads, width // self.heads).transpose(1, 2) for t in (q, k, v))
        scores = (q @ k.transpose(-2, -1)) * k.shape[-1] ** -0.5
        mask = torch.tril(torch.ones(time, time, device=x.device)).view(1, 1, time, time)
        weights = scores.masked_fill(mask == 0, float("-inf")).softmax(dim=-1)
        return self.c_proj((weights @ v).transpose(1, 2).contiguous().view(batch, time, width))


class Layer(nn.Module):
    """Pre-norm residual block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, bias=False)
        self.attn = Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [batch, time, width]."""
        x = x + self.attn(self.ln_1(x))
        return x + self.down(nn.functional.gelu(self.up(self.ln_2(x))))


class NanoGPT(nn.Module):
    """nanoGPT as written by hand: tied head, learned positions, loss inside forward when targets are given."""

    def __init__(
        self, vocabulary: int = 96, width: int = 48, heads: int = 4, layers: int = 2, context: int = 16
    ) -> None:
        super().__init__()
        self.wte = nn.Embedding(vocabulary, width)
        self.wpe = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.wte.weight = self.head.weight

    def forward(self, idx: torch.Tensor, targets: torch.Tensor | None = None) -> torch.Tensor:
        """idx, targets: [batch, time]. The logits, or the loss if there are targets."""
        x = self.wte(idx) + self.wpe(torch.arange(idx.shape[1], device=idx.device))
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.ln_f(x))
        if targets is None:
            return logits
        return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
