"""The sweep that the demo's learning rates come from: `python -m benchmarks.tune_demo adamw --steps 450`.

Each setting is one full run of the demo's task, from the same seed and on the same batches. Prints one line a run
(settings, final validation loss, seconds) and at the end a table, best first.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import itertools
from collections.abc import Iterator, Sequence

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from workloads.tasks import Task, gpt2_task, resnet_task
from workloads.training import adamw, muon, train

Setting = tuple[tuple[str, float | str], ...]

TASKS = {"gpt2": gpt2_task, "resnet": resnet_task}
ADAMW: dict[str, tuple[float | str, ...]] = {"decay": (0.0, 0.1), "beta2": (0.95, 0.99), "warmup": (0.1, 0.2, 0.4)}


def settings(axes: dict[str, tuple[float | str, ...]]) -> Iterator[Setting]:
    """Every combination of the axes' values."""
    for values in itertools.product(*axes.values()):
        yield tuple(zip(axes, values, strict=True))


def optimizers(
    kind: str, task: Task, model: nn.Module, setting: dict[str, float | str]
) -> Sequence[torch.optim.Optimizer]:
    """AdamW, torch's Muon with it, or normc with `kind` as its recipe; what is left in `setting` goes to the recipe.

    `mass:GLOB` gives what matches that mass.
    """
    lr = float(setting.pop("lr"))
    if kind == "adamw":
        return [adamw(model, lr, decay=float(setting["decay"]), beta2=float(setting["beta2"]))]
    if kind == "torch-muon":
        return muon(model, lr, decay=float(setting["decay"]), beta2=float(setting["beta2"]))
    import normc

    tare = {name.removeprefix("mass:"): float(setting.pop(name)) for name in list(setting) if name.startswith("mass:")}
    return [normc.compile(model, task.inputs, lr=lr, recipe=kind, options=setting, tare=tare)]


def main() -> None:
    """Run the sweep that the command line names and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", help="adamw, torch-muon (torch.optim.Muon and AdamW), or a recipe of normc")
    parser.add_argument("--task", choices=TASKS, default="gpt2")
    parser.add_argument("--lr", type=float, nargs="+", required=True)
    parser.add_argument("--axis", action="append", default=[], metavar="NAME=V,V", help="a further axis of the sweep")
    parser.add_argument("--steps", type=int, help="the task's own number of steps unless given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--full", action="store_true", help="AdamW over every decay, beta2 and warmup")
    arguments = parser.parse_args()
    task = TASKS[arguments.task](seed=arguments.seed, device=arguments.device)
    task = dataclasses.replace(task, steps=arguments.steps or task.steps)
    axes: dict[str, tuple[float | str, ...]] = {"lr": tuple(arguments.lr)}
    if arguments.kind in ("adamw", "torch-muon"):
        axes |= ADAMW if arguments.full else {"decay": (0.1,), "beta2": (0.95,)}
    for axis in arguments.axis:
        name, _, values = axis.rpartition("=")
        axes[name] = tuple(number(value) for value in values.split(","))
    results = []
    for setting in settings(axes):
        model = task.model()
        rest = dict(setting)
        warmup, clip = float(rest.pop("warmup", 0.2)), float(rest.pop("clip", 0)) or None
        rivals = optimizers(arguments.kind, task, model, rest)
        run = train(task, model, rivals, "", Console(file=io.StringIO()), warmup, clip)
        print(f"{label(setting)}  validation {run.final:.4f}  {run.seconds:.0f} s", flush=True)
        results.append((run.final, label(setting)))
    table = Table("setting", "final validation loss", title=f"{arguments.kind} on {task.title}, {task.steps} steps")
    for final, text in sorted(results):
        table.add_row(text, f"{final:.4f}")
    Console().print(table)


def number(text: str) -> float | str:
    """`text` as a number if it is one."""
    try:
        return float(text)
    except ValueError:
        return text


def label(setting: Setting) -> str:
    """`lr=0.001 decay=0.1` for people."""
    return " ".join(f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in setting)


if __name__ == "__main__":
    main()
