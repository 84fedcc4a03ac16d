"""The critical batch size of a small byte model: `python -m examples.critical_batch [--quick]`. Results in out/cbs."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional

import normc
from normc.cbs import Point, Trial
from workloads.data import bible
from workloads.machine import machine

CONTEXT, WIDTH, TARGET = 12, 64, 2.2
SIZES: tuple[int, ...] = (16, 32, 64, 128, 256, 512, 1024)
LRS: dict[str, tuple[float, ...]] = {
    "adamw": (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2),
    "uscion": (1e-2, 2e-2, 4e-2, 8e-2, 1.6e-1),
}
DECAYS = (0.9, 0.98)


class ByteMLP(nn.Module):
    """The next byte from the last CONTEXT ones: an embedding, two hidden layers, a head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(256, width // 4)
        self.first, self.second = nn.Linear(CONTEXT * width // 4, width), nn.Linear(width, width)
        self.head = nn.Linear(width, 256)

    def forward(self, ids: Tensor) -> Tensor:
        """ids: [batch, CONTEXT]. Logits [batch, 256]."""
        x = functional.gelu(self.first(self.embed(ids).flatten(1)))
        logits: Tensor = self.head(functional.gelu(self.second(x)))
        return logits


def windows(text: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """CONTEXT bytes from each start, and the byte that follows: long [n, CONTEXT] and [n]."""
    found = text[starts[:, None] + torch.arange(CONTEXT + 1)].long()
    return found[:, :-1], found[:, -1]


def trials(optimizer: str, width: int, seed: int = 0) -> Callable[[int, float], Trial]:
    """For `normc.cbs.measure`: from the same weights, on batches that are drawn anew each step."""
    text = bible()
    places = torch.randint(0, len(text.validation) - CONTEXT, (2048,), generator=torch.Generator().manual_seed(1))
    held_out = windows(text.validation, places)

    def loss(model: nn.Module) -> float:
        return float(functional.cross_entropy(model(held_out[0]), held_out[1]))

    def train(batch: int, lr: float) -> Trial:
        torch.manual_seed(seed)
        model = ByteMLP(width)
        if optimizer == "adamw":
            opt: torch.optim.Optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
        else:
            opt = normc.compile(model, held_out[0][:2], lr=lr, recipe=optimizer, compile=False)
        draw = torch.Generator().manual_seed(seed + 2)

        def step() -> None:
            ids, following = windows(text.train, torch.randint(0, len(text.train) - CONTEXT, (batch,), generator=draw))
            opt.zero_grad()
            functional.cross_entropy(model(ids), following).backward()
            opt.step()

        return Trial(model, step, loss)

    return train


def main() -> None:
    """Measure, print the table, write the plot and the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--optimizer", choices=sorted(LRS), default="adamw")
    parser.add_argument("--quick", action="store_true", help="a toy of it, in seconds: shows that it runs, no more")
    parser.add_argument("--out", type=Path, default=Path("out/cbs"))
    arguments = parser.parse_args()
    console = Console()
    torch.set_num_threads(1)  # steps of a few milliseconds: a second thread is mostly waited for
    width, sizes, lrs, target = WIDTH, SIZES, LRS[arguments.optimizer], TARGET
    if arguments.quick:
        width, sizes, lrs, target = 16, (32, 64, 128), lrs[-2:], 3.2

    def report(point: Point) -> None:
        console.print(f"batch {point.batch:4}: {point.steps or 'no'} steps at lr {point.lr:g}", highlight=False)

    start = time.process_time()
    found = normc.cbs.measure(
        trials(arguments.optimizer, width), sizes, target,
        lrs=lrs, decays=DECAYS, limit=8000, every=2, resolution=0.04, search="nearest", report=report,
    )  # fmt: skip
    took = f"{time.process_time() - start:.0f} s of one thread of {machine()}, torch {torch.__version__}"
    console.print(f"\n{arguments.optimizer} on a byte model of width {width}; {took}", soft_wrap=True)
    console.print(found)
    arguments.out.mkdir(parents=True, exist_ok=True)
    found.plot(arguments.out / f"{arguments.optimizer}.png")
    (arguments.out / f"{arguments.optimizer}.json").write_text(found.to_json())
    console.print(f"Written to {arguments.out}: {arguments.optimizer}.png, {arguments.optimizer}.json")


if __name__ == "__main__":
    main()
