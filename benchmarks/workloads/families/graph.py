"""A graph network that tells how many edges lie between each node and the nearest of two marked ones."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.workloads.workload import Batch, Task, drawn, workload

FAR = 7  # nodes that are farther, or that no path reaches, count as this far
NODES = 32


class Passing(nn.Module):
    """A message of every pair of neighbours, summed, and an MLP with a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.source, self.target = nn.LayerNorm(width), nn.Linear(width, width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(2 * width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """Nodes [n, nodes, width] and edges [n, nodes, nodes] (0 or 1) -> nodes."""
        y = self.norm(x)
        pairs = F.relu(self.target(y)[:, :, None] + self.source(y)[:, None])
        messages = (pairs * edges[..., None]).sum(2) / (1 + edges.sum(2, keepdim=True))
        out: Tensor = x + self.down(F.relu(self.up(torch.cat((y, messages), -1))))
        return out


class GraphNet(nn.Module):
    """Marks in, a distance out, a node."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.marks = nn.Embedding(2, width)
        self.layers = nn.ModuleList(Passing(width) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, FAR + 1)

    def forward(self, marked: Tensor, edges: Tensor) -> Tensor:
        """Marks (long [n, nodes]) and edges -> logits [n, nodes, 8]."""
        x = self.marks(marked)
        for layer in self.layers:
            x = layer(x, edges)
        logits: Tensor = self.head(self.norm(x))
        return logits


def graphs(rows: int, generator: torch.Generator) -> Batch:
    """Return random geometric graphs: points in a square, an edge where two are near; two nodes are marked."""
    points = torch.rand(rows, NODES, 2, generator=generator)
    edges = (torch.cdist(points, points) < 0.24).float() * (1 - torch.eye(NODES))
    marked = torch.zeros(rows, NODES, dtype=torch.long)
    marked[:, :2] = 1  # points are in random order
    reached, distance = marked.bool(), torch.full((rows, NODES), FAR)
    distance[reached] = 0
    for step in range(1, FAR):
        near = (edges @ reached.float()[..., None])[..., 0] > 0
        distance[near & ~reached] = step
        reached = reached | near
    return {"marked": marked, "edges": edges, "label": distance}


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Cross entropy of the distances."""
    return F.cross_entropy(model(batch["marked"], batch["edges"]).flatten(0, 1), batch["label"].flatten())


@workload("graph", "graph network on distances in random geometric graphs")
def graph(quick: bool, seed: int, device: str) -> Task:
    """Width 16 and 2 layers, or width 96 and 6."""
    width, depth, rows, steps, every = (16, 2, 16, 24, 8) if quick else (96, 6, 64, 600, 20)
    return drawn(
        lambda: GraphNet(width, depth), loss, [partial(graphs, rows)] * 3, ("marked", "edges"),
        seed=seed, device=device, steps=steps, every=every, measured=4,
    )  # fmt: skip
