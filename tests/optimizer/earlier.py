"""Checkpoints that an earlier version of normc wrote, and the models that they are of.

`python -m tests.optimizer.earlier NAME` writes those of the version that runs it. A file is never written again: what
a version wrote has to load for ever.
"""

from __future__ import annotations

import copy
import io
import pickle
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

import normc

FOLDER = Path(__file__).parent / "checkpoints"
FLAT = StateDictOptions(flatten_optimizer_state_dict=True)
# Of each case: the recipe, and what is asked of it.
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "auto": ("auto", {}),
    "adamw": ("adamw", {}),
    "muon": ("muon", {"weight_decay": (0.3, 0.1)}),
    "soap": ("soap", {}),
    "scion-light": ("scion-light", {}),
    "mixed": ({"*": "muon", "output": "adamw", "embedding": "lion"}, {}),
    "narrow": ("muon", {"stochastic_rounding": True}),
    "wrapped": ("muon", {}),
    "deferred": ("muon", {}),
}


class Net(nn.Module):
    """An embedding, a matrix, a gain, a bias and an output."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 4)
        self.inner = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4, bias=False)
        self.head = nn.Linear(4, 7, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(torch.tanh(self.inner(self.table(tokens)))))


def tokens(seed: int) -> Tensor:
    return torch.randint(7, (3, 5), generator=torch.Generator().manual_seed(seed))


def made(case: str, model: Net | None = None) -> tuple[nn.Module, normc.Optimizer]:
    recipe, options = CASES[case]
    if model is None:
        torch.manual_seed(0)
        model = Net().bfloat16() if case == "narrow" else Net()
    whole = nn.DataParallel(model) if case == "wrapped" else model
    example = None if case == "deferred" else tokens(0)
    return model, normc.compile(whole, example, recipe=recipe, lr=0.02, backend="cpu:fp32", compile=False, **options)


def train(model: nn.Module, opt: normc.Optimizer, first: int, steps: int) -> None:
    for seed in range(first, first + steps):
        given = tokens(seed)
        nn.functional.cross_entropy(model(given).flatten(0, 1).float(), given.flatten()).backward()
        opt.step()
        opt.zero_grad()


def weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def write(version: str) -> None:
    """Every case after three steps; and where two more lead."""
    found = {}
    for case in CASES:
        model, opt = made(case)
        train(model, opt, 0, 3)
        kept: dict[str, Any] = {
            "model": copy.deepcopy(model.state_dict()),
            "optimizer": copy.deepcopy(opt.state_dict()),
        }
        if case in ("muon", "adamw"):
            kept["distributed"] = copy.deepcopy(get_optimizer_state_dict(model, opt))
            kept["flat"] = copy.deepcopy(get_optimizer_state_dict(model, opt, options=FLAT))
        if case == "muon":
            kept["plan"] = opt.plan.to_json()
            pickled = io.BytesIO()
            pickle.dump((model.state_dict(), opt), pickled)
            (FOLDER / f"{version}.pickle").write_bytes(pickled.getvalue())
        train(model, opt, 3, 2)
        found[case] = {**kept, "after": weights(model)}
    torch.save(found, FOLDER / f"{version}.pt")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    write(sys.argv[1])
