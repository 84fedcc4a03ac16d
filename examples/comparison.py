"""AdamW and normc on one task from one seed: two runs, one table, the loss plot, and files that a reader may keep."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import normc
from examples.exported import difference
from workloads.machine import machine
from workloads.tasks import Task
from workloads.training import Run, adamw, train


@dataclass(frozen=True, slots=True)
class Settings:
    """Each optimizer's best of a sweep (docs/demo.md); `warmup`, a share of the steps, is the same for both."""

    adamw_lr: float
    adamw_decay: float
    adamw_beta2: float
    adamw_clip: float | None
    normc_lr: float
    normc_options: tuple[tuple[str, float], ...]
    warmup: float


@dataclass(frozen=True, slots=True)
class Summary:
    """The numbers of the closing table, as summary.json holds them. Losses in nats, times in ms and s."""

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
    normc_steps_to_adamw: int | None
    adamw_optimizer_ms: float
    normc_optimizer_ms: float
    normc_first_step_s: float
    adamw_seconds: float
    normc_seconds: float
    export_difference: float


def compare(task: Task, settings: Settings, folder: Path, console: Console) -> Summary:
    """Print normc's plan, train with both, print the table; writes loss.png, plan.json, update.py, summary.json."""
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
    theirs = train(task, rival, baseline, "AdamW", console, settings.warmup, settings.adamw_clip)
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
        normc_final=ours.final,
        normc_steps_to_adamw=ours.reached(theirs.final),
        adamw_optimizer_ms=theirs.optimizer_ms,
        normc_optimizer_ms=ours.optimizer_ms,
        normc_first_step_s=ours.first_step_ms / 1e3,
        adamw_seconds=theirs.seconds,
        normc_seconds=ours.seconds,
        export_difference=gap,
    )
    (folder / "summary.json").write_text(json.dumps(asdict(summary), indent=2) + "\n")
    plot(task, (theirs, ours), folder / "loss.png")
    console.print(table(summary))
    console.print(
        f"The exported update.py ran 5 steps without normc: largest difference from normc's own {gap:.1e}.\n"
        f"Written to {folder}: loss.png, plan.json, update.py, summary.json"
    )
    return summary


def table(summary: Summary) -> Table:
    """The closing table: one line an optimizer."""
    reached = summary.normc_steps_to_adamw
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
    shown.add_row(
        "AdamW", f"{summary.settings.adamw_lr:g}", f"{summary.adamw_final:.4f}", str(summary.steps),
        f"{summary.adamw_optimizer_ms:.1f}", f"{summary.adamw_seconds:.0f} s",
    )  # fmt: skip
    shown.add_row(
        "normc", f"{summary.settings.normc_lr:g}", f"{summary.normc_final:.4f}",
        "not reached" if reached is None else str(reached),
        f"{summary.normc_optimizer_ms:.1f}", f"{summary.normc_seconds:.0f} s",
    )  # fmt: skip
    shown.caption = (
        f"Median optimizer time; {summary.threads} threads of {summary.machine}, torch {summary.torch}. "
        f"normc's train time includes its first step, "
        f"{summary.normc_first_step_s:.1f} s, in which its code is compiled."
    )
    return shown


def plot(task: Task, runs: tuple[Run, ...], path: Path) -> None:
    """Validation loss (lines) and training loss (pale) of every run against steps, as a PNG."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), dpi=144)
    for run, color in zip(runs, ("#8a8f98", "#d1495b"), strict=True):
        steps, losses = zip(*run.validation, strict=True)
        axes.plot(range(1, len(run.train) + 1), run.train, color=color, alpha=0.25, linewidth=0.8)
        axes.plot(steps, losses, color=color, linewidth=2, label=f"{run.name}: {run.final:.3f}")
    axes.axhline(runs[0].final, color="#8a8f98", linewidth=0.8, linestyle=":")
    top = max(run.validation[0][1] for run in runs)
    axes.set_ylim(min(run.final for run in runs) - 0.1, top + 0.3)
    axes.set(xlabel="step", ylabel="validation loss (nats; training loss pale)", title=task.title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)
