"""A masked language model: a bidirectional encoder that fills in 15 % of the tokens."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.workloads.layers import Block, small
from benchmarks.workloads.tokens import corpus, windows
from benchmarks.workloads.workload import Batch, Task, drawn, workload

IGNORED = -100


class Encoder(nn.Module):
    """The last token id stands for a masked token."""

    def __init__(self, vocabulary: int, context: int, width: int, depth: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary + 1, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, width // 4, causal=False) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary)
        small(self)

    def forward(self, ids: Tensor) -> Tensor:
        """[batch, time] -> logits [batch, time, vocabulary]."""
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Cross entropy of the masked tokens."""
    return F.cross_entropy(model(batch["ids"]).flatten(0, 1), batch["label"].flatten(), ignore_index=IGNORED)


@workload("mlm-text", "masked language model on the King James Bible, tokens")
def on_text(quick: bool, seed: int, device: str) -> Task:
    """On text."""
    width, depth, rows, context, steps, every = (32, 2, 8, 24, 24, 8) if quick else (256, 4, 128, 64, 600, 20)
    tokens = corpus("text", quick)

    def cut(ids: Tensor, generator: torch.Generator) -> Batch:
        own = windows(ids, rows, context, generator, "cpu")["ids"]
        mask = torch.rand(own.shape, generator=generator) < 0.15
        masked, label = own.masked_fill(mask, tokens.vocabulary), own.masked_fill(~mask, IGNORED)
        return {"ids": masked, "label": label}

    cuts = [partial(cut, ids) for ids in (tokens.train, tokens.tuning, tokens.held_out)]
    return drawn(
        lambda: Encoder(tokens.vocabulary, context, width, depth), loss, cuts, ("ids",),
        seed=seed, device=device, steps=steps, every=every, measured=8,
    )  # fmt: skip
