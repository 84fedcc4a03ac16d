"""A mixture of experts: the Llama-like model, each token through the two best of several SwiGLUs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.workloads.families.llama import Llama
from benchmarks.workloads.language import language
from benchmarks.workloads.workload import Task, workload


class Experts(nn.Module):
    """All experts are computed, and the weights of all but the two best are zero: simple, and the same function."""

    def __init__(self, width: int, inner: int, count: int) -> None:
        super().__init__()
        self.router = nn.Linear(width, count, bias=False)
        self.gate, self.up = (nn.Parameter(0.02 * torch.randn(count, inner, width)) for _ in range(2))
        self.down = nn.Parameter(0.02 * torch.randn(count, width, inner))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, time, width] -> the same."""
        scores = self.router(x)
        least = scores.topk(2, dim=-1).values[..., -1:]
        share = scores.masked_fill(scores < least, float("-inf")).softmax(-1)
        gate = torch.einsum("btw,eiw->btei", x, self.gate)
        hidden = F.silu(gate) * torch.einsum("btw,eiw->btei", x, self.up)
        return torch.einsum("btei,ewi,bte->btw", hidden, self.down, share)


@workload("moe-code", "mixture of 8 experts, two a token, on Python's standard library, tokens")
def on_code(quick: bool, seed: int, device: str) -> Task:
    """On code."""
    width, depth, count = (32, 2, 4) if quick else (192, 4, 8)

    def build(vocabulary: int, context: int) -> nn.Module:
        return Llama(vocabulary, width, [Experts(width, width, count) for _ in range(depth)])

    return language("code", build, quick, seed, device)
