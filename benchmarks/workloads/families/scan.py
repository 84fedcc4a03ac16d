"""A Mamba-like model: a short causal filter, then a state that decays at a rate each token chooses, gated.

The scan is written as a product of decays, state space duality's matrix form, so that no loop runs over time.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.workloads.language import language
from benchmarks.workloads.layers import small
from benchmarks.workloads.workload import Task, workload

WINDOW = 4


class Scan(nn.Module):
    """h_t = exp(-rate_t) h_(t-1) + rate_t b_t x_t^T;  y_t = c_t h_t + skip x_t, a head."""

    def __init__(self, width: int, heads: int, state: int) -> None:
        super().__init__()
        self.value, self.gate = nn.Linear(width, 2 * width, bias=False), nn.Linear(width, 2 * width, bias=False)
        self.write, self.read = nn.Linear(width, state, bias=False), nn.Linear(width, state, bias=False)
        self.rate = nn.Linear(width, heads)
        self.filter = nn.Conv1d(2 * width, 2 * width, WINDOW, groups=2 * width, padding=WINDOW - 1)
        self.skip = nn.Parameter(torch.ones(heads))
        self.out, self.heads = nn.Linear(2 * width, width, bias=False), heads

    def forward(self, x: Tensor) -> Tensor:
        """[batch, time, width] -> the same."""
        time = x.shape[1]
        value = F.silu(self.filter(self.value(x).transpose(1, 2))[..., :time].transpose(1, 2))
        value = value.unflatten(-1, (self.heads, -1))
        rate = F.softplus(self.rate(x))
        passed = rate.cumsum(1).transpose(1, 2)
        decay = passed[..., None, :] - passed[..., :, None]
        later = torch.ones(time, time, dtype=torch.bool, device=x.device).triu(1)
        decay = decay.masked_fill(later, float("-inf")).exp()
        scores = (self.read(x) @ self.write(x).transpose(1, 2))[:, None] * decay
        mixed = torch.einsum("bhts,bshd->bthd", scores, value * rate[..., None]) + self.skip[:, None] * value
        out: Tensor = self.out(mixed.flatten(2) * F.silu(self.gate(x)))
        return out


class Mamba(nn.Module):
    """Blocks of scans behind RMS norms."""

    def __init__(self, vocabulary: int, width: int, depth: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.norms = nn.ModuleList(nn.RMSNorm(width) for _ in range(depth))
        self.blocks = nn.ModuleList(Scan(width, max(2, width // 32), min(width, 64)) for _ in range(depth))
        self.norm, self.head = nn.RMSNorm(width), nn.Linear(width, vocabulary, bias=False)
        small(self)
        for block in self.blocks:
            if isinstance(block, Scan):
                nn.init.constant_(block.rate.bias, math.log(math.expm1(0.1)))  # softplus of it is 0.1
                nn.init.normal_(block.write.weight, std=width**-0.5)
                nn.init.normal_(block.read.weight, std=width**-0.5)

    def forward(self, ids: Tensor) -> Tensor:
        """[batch, time] -> logits [batch, time, vocabulary]."""
        x = self.tokens(ids)
        for norm, block in zip(self.norms, self.blocks, strict=True):
            x = x + block(norm(x))
        logits: Tensor = self.head(self.norm(x))
        return logits


@workload("scan-text", "Mamba-like scan on the King James Bible, tokens")
def on_text(quick: bool, seed: int, device: str) -> Task:
    """On text."""
    width, depth = (32, 2) if quick else (256, 4)
    return language("text", lambda vocabulary, _: Mamba(vocabulary, width, depth), quick, seed, device)
