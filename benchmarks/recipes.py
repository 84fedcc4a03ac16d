"""Time a step of whole recipes on GPT-2 of 124M parameters: `python -m benchmarks.recipes [RECIPE ...]`, auto and muon.

All step the same gradients in one process, in turns. A recipe may have options behind it, as "auto neurons=true"; and
"nonfinite=ignore", which is no option of the recipe. --write puts the times into docs/recipes-DEVICE.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

import normc
from benchmarks.workloads.job import circumstances

DOCS = Path(__file__).parents[1] / "docs"
SHOWN = ["auto", "muon", "auto nonfinite=ignore", "auto neurons=true", "modular-dual", "adamw"]


def gpt2(quick: bool) -> nn.Module:
    """GPT-2 of 124M parameters, or a tiny one."""
    from transformers import GPT2Config, GPT2LMHeadModel

    small = {"n_embd": 64, "n_layer": 2, "n_head": 2, "vocab_size": 100, "n_positions": 32} if quick else {}
    model: nn.Module = GPT2LMHeadModel(GPT2Config(**small))
    return model


def built(text: str, model: nn.Module, device: str) -> normc.Optimizer:
    """Return the optimizer that a line of the table is about."""
    recipe, *rest = text.split()
    options: dict[str, Any] = dict(word.split("=") for word in rest)
    policy = options.pop("nonfinite", "raise")
    options = {name: {"true": True, "false": False}.get(value, value) for name, value in options.items()}
    inputs = torch.zeros(1, 16, dtype=torch.long, device=device)
    return normc.compile(model, inputs, recipe=recipe, lr=0.01, options=options, nonfinite=policy)


def milliseconds(optimizers: dict[str, normc.Optimizer], device: str, rounds: int) -> dict[str, float]:
    """Return the median time of a step of each, which take turns. 1e-3 s, the device waited for."""
    found: dict[str, list[float]] = {name: [] for name in optimizers}
    for turn in range(rounds + 3):
        for name, optimizer in optimizers.items():
            _wait(device)
            begin = time.perf_counter()
            optimizer.step()
            _wait(device)
            if turn >= 3:
                found[name].append(1e3 * (time.perf_counter() - begin))
    return {name: statistics.median(times) for name, times in found.items()}


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main(arguments: list[str] | None = None) -> None:
    """Build, step, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recipes", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help=f"by default {', '.join(SHOWN)}")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="a tiny model: does it run?")
    parser.add_argument("--rounds", type=int, default=40, help="timed steps of each")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args(arguments)
    optimizers: dict[str, normc.Optimizer] = {}
    for name in given.recipes or SHOWN:
        torch.manual_seed(0)
        model = gpt2(given.quick).to(given.device)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter) * 1e-3
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            optimizers[name] = built(name, model, given.device)
            optimizers[name].step()
    times = milliseconds(optimizers, given.device, given.rounds)
    first = next(iter(times))
    rows: list[dict[str, Any]] = []
    for name, found in times.items():
        state = sum(tensor.nbytes for state in optimizers[name].state.values() for tensor in state.values()
                    if isinstance(tensor, torch.Tensor))  # fmt: skip
        rows.append({"recipe": name, "ms": round(found, 3), "ratio": round(found / times[first], 3), "state": state})
        print(f"{name:28} {found:8.2f} ms  {found / times[first]:5.2f} of {first}  {state / 1e6:8.1f} MB of state")
    if given.write and not given.quick:
        where, version, date = circumstances(given.device)
        saved = {"machine": where, "torch": version, "date": date, "rows": rows}
        (DOCS / f"recipes-{given.device}.json").write_text(json.dumps(saved, indent=1) + "\n")


if __name__ == "__main__":
    main()
