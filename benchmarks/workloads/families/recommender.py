"""A recommender: embeddings of categories and a bottom MLP of numbers, their dot products, a top MLP; clicks or not."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.workloads.workload import Batch, Task, drawn, workload

NUMBERS, HIDDEN = 13, 8


class Recommender(nn.Module):
    """Columns of categories and of numbers -> the logit of a click."""

    def __init__(self, sizes: tuple[int, ...], width: int, inner: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(size, width) for size in sizes)
        self.bottom = nn.ModuleList([nn.Linear(NUMBERS, inner), nn.Linear(inner, width)])
        count = len(sizes) + 1
        self.top = nn.ModuleList([nn.Linear(width + count * count, inner), nn.Linear(inner, inner)])
        self.head = nn.Linear(inner, 1)
        for table in self.tables:
            if isinstance(table, nn.Embedding):
                nn.init.normal_(table.weight, std=width**-0.5)

    def forward(self, categories: Tensor, numbers: Tensor) -> Tensor:
        """[n, columns] long and [n, 13] -> logits [n]."""
        for layer in self.bottom:
            numbers = F.relu(layer(numbers))
        columns = [table(categories[:, index]) for index, table in enumerate(self.tables)]
        features = torch.stack([numbers, *columns], 1)
        x = torch.cat((numbers, (features @ features.transpose(1, 2)).flatten(1)), 1)
        for layer in self.top:
            x = F.relu(layer(x))
        logits: Tensor = self.head(x)[:, 0]
        return logits


@functools.cache
def teacher(sizes: tuple[int, ...]) -> tuple[tuple[Tensor, ...], Tensor]:
    """Return what clicks depend on: a hidden vector of every category, and weights of the numbers."""
    generator = torch.Generator().manual_seed(11)
    vectors = tuple(torch.randn(size, HIDDEN, generator=generator) for size in sizes)
    return vectors, torch.randn(NUMBERS, HIDDEN, generator=generator) / NUMBERS**0.5


def clicks(sizes: tuple[int, ...], rows: int, generator: torch.Generator) -> Batch:
    """Return rows of a table; frequent categories come first (Zipf's law), and clicks follow the teacher by chance."""
    vectors, weights = teacher(sizes)
    columns = [(size ** torch.rand(rows, generator=generator)).long().clamp(max=size) - 1 for size in sizes]
    numbers = torch.randn(rows, NUMBERS, generator=generator)
    hidden = [vector[column] for vector, column in zip(vectors, columns, strict=True)]
    hidden.append(torch.tanh(numbers @ weights))
    pairs = [(a * b).sum(1) for index, a in enumerate(hidden) for b in hidden[index + 1 :]]
    score = 2 * torch.stack(pairs, 1).sum(1) / (HIDDEN * len(pairs)) ** 0.5 - 0.5
    label = (torch.rand(rows, generator=generator) < score.sigmoid()).float()
    return {"categories": torch.stack(columns, 1), "numbers": numbers, "label": label}


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Binary cross entropy."""
    return F.binary_cross_entropy_with_logits(model(batch["categories"], batch["numbers"]), batch["label"])


@workload("recommender", "recommender of embeddings and MLPs on a made table of clicks")
def recommender(quick: bool, seed: int, device: str) -> Task:
    """Three columns of categories, or eight."""
    sizes = (10, 20, 40) if quick else (10, 30, 100, 300, 1000, 1000, 3000, 10_000)
    width, inner, rows, steps, every = (8, 16, 256, 40, 8) if quick else (32, 256, 2048, 1000, 40)
    cuts = [functools.partial(clicks, sizes, rows)] * 3
    return drawn(
        lambda: Recommender(sizes, width, inner), loss, cuts, ("categories", "numbers"),
        seed=seed, device=device, steps=steps, every=every, measured=8,
    )  # fmt: skip
