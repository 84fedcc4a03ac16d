"""An LSTM of two layers on bytes."""

from __future__ import annotations

from torch import Tensor, nn

from benchmarks.workloads.language import language
from benchmarks.workloads.workload import Task, workload


class Lstm(nn.Module):
    """Bytes in, logits out, as torch initialises them."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.lstm = nn.LSTM(width, width, num_layers=2, batch_first=True)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, ids: Tensor) -> Tensor:
        """[batch, time] -> logits [batch, time, vocabulary]."""
        x, _ = self.lstm(self.tokens(ids))
        logits: Tensor = self.head(x)
        return logits


@workload("lstm-text", "two-layer LSTM on the King James Bible, bytes")
def on_text(quick: bool, seed: int, device: str) -> Task:
    """On text."""
    width = 32 if quick else 512
    return language("text", lambda vocabulary, _: Lstm(vocabulary, width), quick, seed, device, "bytes")
