"""One training run: what it is of, and what came of it. Its key is all that it depends on."""

from __future__ import annotations

import datetime as dt
import functools
import json
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import normc
from benchmarks.workloads.captured import backward, measuring
from benchmarks.workloads.optimizers import CONTESTANTS, Build, Setting
from benchmarks.workloads.workload import Task, load
from workloads.machine import machine


@dataclass(frozen=True, slots=True)
class Job:
    """A workload, an optimizer and its setting, a seed, a size ("quick" or "full")."""

    workload: str
    optimizer: str
    lr: float
    rest: float
    decay: float
    seed: int
    size: str

    @property
    def key(self) -> str:
        """All of it as text."""
        rates = f"lr={self.lr:g}/rest={self.rest:g}/decay={self.decay:g}"
        return f"{self.workload}/{self.optimizer}/{rates}/seed={self.seed}/{self.size}"

    @property
    def setting(self) -> Setting:
        """What is tuned."""
        return Setting(self.lr, self.rest, self.decay)


@dataclass(frozen=True, slots=True)
class Result:
    """Losses at each measured step: (steps, loss for tuning, loss that is reported). A loss that isn't finite is inf.

    `failed` says why a job has no losses.
    """

    job: Job
    measured: tuple[tuple[int, float, float], ...]
    steps: int
    seconds: float
    where: str
    torch: str
    date: str
    failed: str = ""

    @property
    def tuning(self) -> float:
        """The final loss that settings are chosen by."""
        return self.measured[-1][1] if self.measured else math.inf

    @property
    def final(self) -> float:
        """The final loss that is reported."""
        return self.measured[-1][2] if self.measured else math.inf

    def line(self) -> str:
        """One line of JSON; losses have six digits, and one that isn't finite is null."""
        rows = [
            [step, *(float(f"{loss:.6g}") if math.isfinite(loss) else None for loss in losses)]
            for step, *losses in self.measured
        ]
        return json.dumps({"key": self.job.key} | asdict(self) | {"measured": rows})

    @staticmethod
    def parse(line: str) -> Result:
        """Return what `line` wrote."""
        given: dict[str, Any] = json.loads(line)
        del given["key"]
        measured = tuple(
            (step, *(math.inf if loss is None else loss for loss in losses)) for step, *losses in given["measured"]
        )
        return Result(**given | {"job": Job(**given["job"]), "measured": measured})


def read(path: Path) -> dict[str, Result]:
    """Return the results of a file by key; a last line that was cut off is left out, and a repeated key is its last."""
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    results = [Result.parse(line) for line in lines if line.endswith("\n")]
    return {result.job.key: result for result in results}


def append(path: Path, result: Result) -> None:
    """Add a line to the file. A line that an earlier process left unfinished is ended first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = path.read_text() if path.is_file() else ""
    if text and not text.endswith("\n"):
        path.write_text(text[: text.rfind("\n") + 1])
    with path.open("a") as file:
        file.write(result.line() + "\n")


@functools.lru_cache(maxsize=2)
def task(workload: str, quick: bool, seed: int, device: str) -> Task:
    """Return a workload's task; the last ones are kept, as their data takes a while."""
    return load()[workload].make(quick, seed, device)


def run(job: Job, device: str, steps: int | None = None) -> Result:
    """Train a workload. `steps` cuts the run short, not its schedule."""
    given = task(job.workload, job.size == "quick", job.seed, device)
    return train(job, given, CONTESTANTS[job.optimizer].build, device, steps)


def train(job: Job, given: Task, build: Build, device: str, steps: int | None = None) -> Result:
    """Train, and stop early once a held-out loss isn't finite. `steps` cuts the run short, not its schedule.

    The schedule is normc's default: up in a tenth of the steps, then linearly to zero. On a GPU under autocast to bf16.
    """
    torch.set_float32_matmul_precision("high")
    torch.backends.cuda.enable_cudnn_sdp(False)  # its gradients are NaN at 64 places (pytorch issue 196678)
    model = given.model()
    stepper = build(model, given.inputs, job.setting)
    rates = [normc.schedule(optimizer, given.steps) for optimizer in stepper.optimizers]
    gradients = backward(given, model, device)
    tuning, held_out = (measuring(given, model, batches, device) for batches in (given.tuning, given.held_out))
    measured: list[tuple[int, float, float]] = []
    begin = time.perf_counter()
    last = given.steps if steps is None else steps
    for step in range(last):
        gradients(given.batch(step))
        stepper.step(model)
        for rate in rates:
            rate.step()
        if (step + 1) % given.every == 0 or step + 1 == last:
            measured.append((step + 1, tuning(), held_out()))
            if math.inf in measured[-1]:
                break
    seconds = time.perf_counter() - begin
    return Result(job, tuple(measured), given.steps, round(seconds, 3), *circumstances(device))


def circumstances(device: str) -> tuple[str, str, str]:
    """Return the device's name, torch's version and the date."""
    where = torch.cuda.get_device_name() if device == "cuda" else f"{machine()}, {torch.get_num_threads()} threads"
    return where, torch.__version__, dt.datetime.now(dt.UTC).date().isoformat()


def mean(values: Sequence[float]) -> float:
    """Return the mean; inf if one is."""
    return statistics.fmean(values) if all(map(math.isfinite, values)) else math.inf
