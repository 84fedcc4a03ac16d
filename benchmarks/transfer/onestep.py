"""How far one step moves the output, over widths and depths: `python -m benchmarks.transfer.onestep [--quick]`.

A byte-level GPT (pre-norm, no depth multipliers, weights on their norms' spheres) takes a few steps on real text; after
each, the RMS of the change of its logits is divided by the learning rate. A recipe whose learning rate is to carry over
keeps that figure flat. Compared: `modular-dual`, whose targets come from masses and gains, and uniform targets (each
matrix the same operator norm, as Muon and Scion have them) at the learning rate that moves the output of the model of
width 64 and depth 4 as far. Each figure is the mean over SEEDS, which draw the weights and the batches anew; the lowest
and the highest single figure are printed beside.

Prints both tables; writes docs/transfer.json and docs/transfer.png.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import normc
from workloads.data import bible
from workloads.machine import machine

DOCS = Path(__file__).parents[2] / "docs"
WIDTHS, DEPTHS = (32, 64, 128, 256, 512), (2, 4, 8, 16, 24)
REFERENCE = (64, 4)
ETA, STEPS, ROWS, CONTEXT = 0.1, 3, 8, 64
SEEDS = (1, 2, 3, 4)
UNIFORM = {f"radius_{role}": 1.0 for role in ("input", "hidden", "output", "embedding", "position", "vector")}
RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "modular-dual": ("modular-dual", {}),
    "uniform targets": ("uscion", UNIFORM),
}


class Block(nn.Module):
    """Attention and a GELU MLP, each behind a norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, time, width]."""
        z = self.first(x)
        q, k, v = (part(z).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.q, self.k, self.v))
        x = x + self.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        out: Tensor = x + self.down(F.gelu(self.up(self.second(x))))
        return out


class GPT(nn.Module):
    """Embeddings of RMS 1, matrices semi-orthogonal times sqrt(out / in)."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(256, width), nn.Embedding(CONTEXT, width)
        self.blocks = nn.ModuleList(Block(width, max(1, width // 16)) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width, bias=False), nn.Linear(width, 256, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.orthogonal_(module.weight, gain=math.sqrt(module.out_features / module.in_features))
            if isinstance(module, nn.Embedding):
                module.weight.data = F.rms_norm(module.weight.data, module.weight.shape[1:])

    def forward(self, ids: Tensor) -> Tensor:
        """ids: [batch, time]. Logits."""
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(self.norm(x))
        return out


@dataclass(frozen=True)
class Result:
    """RMS change of the logits over the learning rate, at each of the first steps."""

    width: int
    depth: int
    moved: tuple[float, ...]
    lowest: float
    highest: float


def moved(recipe: str, width: int, depth: int, text: Tensor, factor: float = 1.0) -> Result:
    """Mean over SEEDS of what each of the first steps moves."""
    runs = [once(recipe, width, depth, text, factor, seed) for seed in SEEDS]
    every = [step for run in runs for step in run]
    means = tuple(sum(steps) / len(runs) for steps in zip(*runs, strict=True))
    return Result(width, depth, means, min(every), max(every))


def once(recipe: str, width: int, depth: int, text: Tensor, factor: float, seed: int) -> list[float]:
    """Train STEPS steps at lr ETA * factor, measuring each step's effect on its own batch, over ETA."""
    torch.manual_seed(seed)
    name, options = RECIPES[recipe]
    model = GPT(width, depth)
    opt = normc.compile(
        model, torch.zeros(2, 8, dtype=torch.long), lr=ETA * factor, recipe=name, options=options, compile=False
    )
    found = []
    for _ in range(STEPS):
        starts = torch.randint(0, len(text) - CONTEXT - 1, (ROWS,))
        batch = torch.stack([text[start : start + CONTEXT + 1] for start in starts]).long()
        before = model(batch[:, :-1])
        opt.zero_grad()
        F.cross_entropy(before.flatten(0, 1), batch[:, 1:].flatten()).backward()
        opt.step()
        with torch.no_grad():
            found.append(float((model(batch[:, :-1]) - before).square().mean().sqrt()) / ETA)
    return found


def plot(results: dict[str, list[Result]], path: Path) -> None:
    """The first step over widths and over depths."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(8.4, 3.6), dpi=144, sharey=True)
    for axes, what in zip(panels, ("width", "depth"), strict=True):
        for label, entries in results.items():
            own = sorted({(getattr(r, what), r.moved[0]) for r in entries if _varies(r, what)})
            axes.loglog(*zip(*own, strict=True), "o-", label=label)
        axes.axhspan(0.4, 1.75, color="0.93", zorder=0)
        sizes = WIDTHS if what == "width" else DEPTHS
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.set_xticks([], minor=True)
        axes.set_xlabel(what)
        axes.grid(alpha=0.25)
    panels[0].set_yticks([0.25, 0.5, 1, 2, 4], ["0.25", "0.5", "1", "2", "4"])
    panels[0].set_yticks([], minor=True)
    panels[0].set_ylabel("RMS change of the logits / lr, step 1")
    panels[0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path)


def _varies(result: Result, what: str) -> bool:
    return result.depth == REFERENCE[1] if what == "width" else result.width == REFERENCE[0]


def main() -> None:
    """Run all sizes, print the tables, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the two smallest widths and depths; writes nothing")
    quick = parser.parse_args().quick
    text = bible().train
    sizes = list(dict.fromkeys([(w, REFERENCE[1]) for w in WIDTHS] + [(REFERENCE[0], d) for d in DEPTHS]))
    sizes = sizes[:2] if quick else sizes
    factors = dict.fromkeys(RECIPES, 1.0)
    anchor = moved("modular-dual", *REFERENCE, text).moved[0]
    for _ in range(4):  # the response is not quite linear
        factors["uniform targets"] *= (
            anchor / moved("uniform targets", *REFERENCE, text, factors["uniform targets"]).moved[0]
        )
    results = {label: [moved(label, *size, text, factors[label]) for size in sizes] for label in RECIPES}
    for label, entries in results.items():
        for r in entries:
            print(
                f"{label:16} width {r.width:4} depth {r.depth:3}  " + "  ".join(f"{step:5.2f}" for step in r.moved),
                f"  single runs {r.lowest:.2f} to {r.highest:.2f}",
            )
        every = [step for r in entries for step in r.moved]
        print(f"{label:16} from {min(every):.2f} to {max(every):.2f}, a factor of {max(every) / min(every):.1f}")
    if not quick:
        facts = {label: [{"width": r.width, "depth": r.depth, "moved": [round(step, 4) for step in r.moved],
                          "lowest": round(r.lowest, 4), "highest": round(r.highest, 4)}
                         for r in entries] for label, entries in results.items()}  # fmt: skip
        head = {"machine": machine(), "torch": torch.__version__, "date": dt.date.today().isoformat(), "lr": ETA}
        (DOCS / "transfer.json").write_text(json.dumps({**head, "results": facts}, indent=1) + "\n")
        plot(results, DOCS / "transfer.png")


if __name__ == "__main__":
    main()
