"""GPT-2: layer norms, biases, learned positions, a head that is the embedding."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.workloads.language import language
from benchmarks.workloads.layers import Block, small
from benchmarks.workloads.workload import Task, workload


class Gpt2(nn.Module):
    """Tokens and places in, logits by the tokens' own embedding out."""

    def __init__(self, vocabulary: int, context: int, width: int, depth: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, min(width, 64) // 2, causal=True) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        small(self)

    def forward(self, ids: Tensor) -> Tensor:
        """[batch, time] -> logits [batch, time, vocabulary]."""
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.tokens.weight)


def sized(quick: bool, seed: int, device: str, text: str) -> Task:
    """Width 32 and 2 layers, or width 256 and 4."""
    width, depth = (32, 2) if quick else (256, 4)
    return language(text, lambda vocabulary, context: Gpt2(vocabulary, context, width, depth), quick, seed, device)


@workload("gpt2-text", "tied GPT-2 on the King James Bible, tokens")
def on_text(quick: bool, seed: int, device: str) -> Task:
    """On text."""
    return sized(quick, seed, device, "text")


@workload("gpt2-code", "tied GPT-2 on Python's standard library, tokens")
def on_code(quick: bool, seed: int, device: str) -> Task:
    """On code."""
    return sized(quick, seed, device, "code")
