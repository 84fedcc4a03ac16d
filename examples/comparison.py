"""AdamW, torch's Muon and normc on one task from one seed: a table, the loss plot, and files that a reader may keep."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import normc
from examples.exported import difference
from workloads.machine import machine
from workloads.tasks import Task
from workloads.training import Run, adamw, muon, train

COLOURS = ("#8a8f98", "#30638e", "#d1495b")


@dataclass(frozen=True, slots=True)
class Settings:
    """Each optimizer's best runs (docs/demo.md). A warmup is a share of the steps; AdamW wants one of its own."""

    adamw_lr: float
    adamw_decay: float
    adamw_beta2: float
    adamw_clip: float | None
    adamw_warmup: float
    muon_lr: float | None  # of torch.optim.Muon and the AdamW beside it; None leaves them out
    normc_lr: float
    normc_options: tuple[tuple[str, float], ...]
    warmup: float


@dataclass(frozen=True, slots=True)
class Summary:
    """The numbers of the closing table, as summary.json holds them. Losses in nats, times in ms and s.

    Those of torch's Muon are None where it didn't run.
    """

    task: str
    parameters: int
    steps: int
    machine: str
    threads: int
    torch: str
    plan_hash: str
    settings: Settings
    adamw_final: float
    normc_final: float
    muon_final: float | None
    normc_steps_to_adamw: int | None
    muon_steps_to_adamw: int | None
    adamw_optimizer_ms: float
    muon_optimizer_ms: float | None
    normc_optimizer_ms: float
    normc_first_step_s: float
    adamw_seconds: float
    muon_seconds: float | None
    normc_seconds: float
    export_difference: float


def compare(task: Task, settings: Settings, folder: Path, console: Console) -> Summary:
    """Print normc's plan, train with each, print the table; writes loss.png, plan.json, update.py, summary.json."""
    folder.mkdir(parents=True, exist_ok=True)
    model = task.model()
    count = sum(parameter.numel() for parameter in model.parameters())
    console.print(f"[bold]{task.title}[/bold]: {count:,} parameters, {task.steps} steps\n")
    opt = normc.compile(model, task.inputs, lr=settings.normc_lr, options=dict(settings.normc_options))
    print(opt.plan)
    (folder / "plan.json").write_text(opt.plan.to_json())
    normc.export(opt, folder / "update.py")

    rival = task.model()
    baseline = adamw(rival, settings.adamw_lr, settings.adamw_decay, settings.adamw_beta2)
    theirs = train(task, rival, baseline, "AdamW", console, settings.adamw_warmup, settings.adamw_clip)
    muons = None
    if settings.muon_lr is not None:
        rival = task.model()
        pair = muon(rival, settings.muon_lr)
        muons = train(task, rival, pair, "torch's Muon", console, settings.warmup)
    ours = train(task, model, opt, "normc", console, settings.warmup)
    for group in opt.param_groups:
        group["lr"] = settings.normc_lr  # the schedule has left it at zero, where any two updates agree
    gap = difference(task, model, opt, folder)
    summary = Summary(
        task=task.title,
        parameters=count,
        steps=task.steps,
        machine=machine(),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        plan_hash=opt.plan.hash,
        settings=settings,
        adamw_final=theirs.final,
        muon_final=None if muons is None else muons.final,
        normc_final=ours.final,
        normc_steps_to_adamw=ours.reached(theirs.final),
        muon_steps_to_adamw=None if muons is None else muons.reached(theirs.final),
        adamw_optimizer_ms=theirs.optimizer_ms,
        muon_optimizer_ms=None if muons is None else muons.optimizer_ms,
        normc_optimizer_ms=ours.optimizer_ms,
        normc_first_step_s=ours.first_step_ms / 1e3,
        adamw_seconds=theirs.seconds,
        muon_seconds=None if muons is None else muons.seconds,
        normc_seconds=ours.seconds,
        export_difference=gap,
    )
    (folder / "summary.json").write_text(json.dumps(asdict(summary), indent=2) + "\n")
    plot(task, [run for run in (theirs, muons, ours) if run is not None], folder / "loss.png")
    console.print(table(summary))
    console.print(
        f"The exported update.py ran 5 steps without normc: largest difference from normc's own {gap:.1e}.\n"
        f"Written to {folder}: loss.png, plan.json, update.py, summary.json"
    )
    return summary


def table(summary: Summary) -> Table:
    """The closing table: one line an optimizer."""
    shown = Table(
        "",
        "lr",
        "final validation loss",
        "steps to AdamW's final",
        "optimizer ms/step",
        "train time",
        title=summary.task,
    )
    for column in shown.columns[1:]:
        column.justify = "right"
    for line in lines(asdict(summary)):
        shown.add_row(*line)
    shown.caption = (
        f"Median optimizer time; {summary.threads} threads of {summary.machine}, torch {summary.torch}. "
        f"normc's train time includes its first step, {summary.normc_first_step_s:.1f} s."
    )
    return shown


def lines(summary: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """The cells of the table of a summary, as summary.json holds it too."""
    for key, name in (("adamw", "AdamW"), ("muon", "torch's Muon, AdamW"), ("normc", "normc")):
        if summary[f"{key}_final"] is not None:
            steps = summary["steps"] if key == "adamw" else summary[f"{key}_steps_to_adamw"]
            yield (
                name, f"{summary['settings'][f'{key}_lr']:g}", f"{summary[f'{key}_final']:.4f}",
                "not reached" if steps is None else str(steps),
                f"{summary[f'{key}_optimizer_ms']:.1f}", f"{summary[f'{key}_seconds']:.0f} s",
            )  # fmt: skip


def plot(task: Task, runs: Sequence[Run], path: Path) -> None:
    """Validation loss (lines) and training loss (pale) of every run against steps, as a PNG."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), dpi=144)
    colours = (COLOURS[0], *COLOURS[len(COLOURS) - len(runs) + 1 :])
    for run, color in zip(runs, colours, strict=True):
        steps, losses = zip(*run.validation, strict=True)
        axes.plot(range(1, len(run.train) + 1), run.train, color=color, alpha=0.25, linewidth=0.8)
        axes.plot(steps, losses, color=color, linewidth=2, label=f"{run.name}: {run.final:.3f}")
    axes.axhline(runs[0].final, color=COLOURS[0], linewidth=0.8, linestyle=":")
    top = max(run.validation[0][1] for run in runs)
    axes.set_ylim(min(run.final for run in runs) - 0.1, top + 0.3)
    axes.set(xlabel="step", ylabel="validation loss (nats; training loss pale)", title=task.title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)
