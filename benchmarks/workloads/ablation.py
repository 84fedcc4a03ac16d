"""What each choice of the default is worth: `python -m benchmarks.workloads.ablation [--jobs N] [--within SECONDS]`.

Every workload is trained by the recipe `auto` at its own lr, and again with one choice undone at a time, from two
seeds that no setting was chosen by. A choice that leaves a workload's plan as it is isn't run there. Results are lines
of JSON in --results and add up; --report writes docs/ablation.json, and the table of docs/evidence.md from it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import normc
from benchmarks.workloads import sitting
from benchmarks.workloads.job import Job, Result, task, train
from benchmarks.workloads.optimizers import Build, Setting, Stepper, planned
from benchmarks.workloads.report import finite
from benchmarks.workloads.score import geometric_mean, ratio
from benchmarks.workloads.stages import curve
from benchmarks.workloads.workload import load
from normc.recipe.by_name import recipes

SEEDS = (4, 5)
WHOLE = "auto"
MARKS = ("<!-- ablation -->", "<!-- ablation: end -->")


@dataclass(frozen=True, slots=True)
class Variant:
    """Options of `auto`, and values of its groups, that differ from the default."""

    options: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)

    def build(self) -> Build:
        """Return what builds the optimizer of one run."""
        plain = planned(WHOLE, **self.options)
        if not self.values.keys() - {"weight_decay"}:
            return plain

        def build(model: Any, inputs: Any, setting: Setting) -> Stepper:
            stepper = plain(model, inputs, setting)
            for group in stepper.optimizers[0].param_groups:
                group.update(self.values)
            return stepper

        return build


VARIANTS = {
    WHOLE: Variant(),
    "weight_decay=0": Variant(values={"weight_decay": 0.0}),
    "weight_decay=0.2": Variant(values={"weight_decay": 0.2}),
    "nesterov=false": Variant({"nesterov": False}),
    "momentum=0.95": Variant(values={"momentum": 0.95}),
    "kernels=slices": Variant({"kernels": "slices"}),
    "tied=sign": Variant({"tied": "sign"}),
    "neurons=true": Variant({"neurons": True}),
    "position_mass=0.03": Variant({"position_mass": 0.03}),
    "embedding_mass=1": Variant({"embedding_mass": 1.0}),
    "blocks_mass=10": Variant({"blocks_mass": 10.0}),
    "vector_mass=0.3": Variant({"vector_mass": 0.3}),
}


def lr() -> float:
    """Return the recipe's own lr."""
    found = recipes[WHOLE].lr
    assert found is not None
    return found


def jobs_of(workload: str, variant: str, size: str) -> list[Job]:
    """Return a job for each seed."""
    own = VARIANTS[variant].values.get("weight_decay", recipes[WHOLE].defaults[0]["weight_decay"])
    return [Job(workload, variant, lr(), 1.0, own, seed, size) for seed in SEEDS]


@functools.cache
def differs(workload: str, variant: str) -> bool:
    """Return whether a variant trains the workload otherwise than `auto` does."""
    chosen = VARIANTS[variant]
    if variant == WHOLE or chosen.values or set(chosen.options) & {"neurons", "nesterov"}:
        return True
    given = task(workload, True, 0, "cpu")
    model = given.model()
    plans = [normc.plan(model, given.inputs, options=dict(options)) for options in ({}, chosen.options)]
    return plans[0].rows != plans[1].rows


def due(results: Mapping[str, Result], size: str, only: str) -> list[Job]:
    """Return the jobs without a result: those of `auto` first."""
    pairs = [(workload, variant) for variant in VARIANTS for workload in load() if fnmatchcase(workload, only)]
    wanted = [job for pair in pairs if differs(*pair) for job in jobs_of(*pair, size)]
    return [job for job in wanted if job.key not in results]


def run(job: Job, device: str, steps: int | None = None) -> Result:
    """Train one workload by one variant."""
    given = task(job.workload, job.size == "quick", job.seed, device)
    return train(job, given, VARIANTS[job.optimizer].build(), device, steps)


def summary(results: Mapping[str, Result], size: str) -> dict[str, Any]:
    """Return, for each variant, the ratio of steps on each workload where it and `auto` have run from all seeds."""
    found: dict[str, Any] = {}
    used: list[Result] = []
    for variant in VARIANTS:
        each = {}
        for workload in load():
            ours, theirs = (
                [results[job.key] for job in jobs_of(workload, name, size) if job.key in results]
                for name in (WHOLE, variant)
            )
            if variant != WHOLE and len(ours) == len(theirs) == len(SEEDS):
                used += ours + theirs
                each[workload] = ratio(curve(ours, 2), curve(theirs, 2))
        if each:
            found[variant] = {"mean": geometric_mean(list(each.values())), "each": each}
    return {
        "size": size,
        "machines": sorted({result.where for result in used}),
        "torch": sorted({result.torch for result in used}),
        "dates": sorted({result.date for result in used}),
        "lr": lr(),
        "variants": found,
    }


def table(data: Mapping[str, Any]) -> str:
    """Return the table of all variants."""
    where, seeds = f"{', '.join(data['machines'])}, torch {', '.join(data['torch'])}", " and ".join(map(str, SEEDS))
    lines = [
        f"{where}, {data['dates'][-1]}; lr {data['lr']:g}, seeds {seeds}, size {data['size']}.",
        "",
        "| undone | steps of auto over its | better, workloads | furthest behind auto | furthest ahead |",
        "|---|---:|---:|---|---|",
    ]
    for name, own in data["variants"].items():
        each = own["each"]
        low, high = min(each, key=each.__getitem__), max(each, key=each.__getitem__)
        better = sum(value < 1 for value in each.values())
        ends = f"{low} {each[low]:.2f} | {high} {each[high]:.2f}"
        lines.append(f"| `{name}` | {own['mean']:.2f} | {better} of {len(each)} | {ends} |")
    return "\n".join(lines)


def write(data: Mapping[str, Any], folder: Path) -> None:
    """Write ablation.json, and put the table into the folder's evidence.md if that has a place for it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ablation.json").write_text(json.dumps(finite(data), indent=1) + "\n")
    page = folder / "evidence.md"
    text = page.read_text() if page.is_file() else "\n".join(MARKS) + "\n"
    (before, rest), end = text.split(MARKS[0]), MARKS[1]
    page.write_text(f"{before}{MARKS[0]}\n{table(data)}\n{end}{rest.split(end)[1]}")


def main(arguments: list[str] | None = None) -> None:
    """Run what is due, or report."""
    summarised = (__doc__ or "").splitlines()[0]
    parser = sitting.options("python -m benchmarks.workloads.ablation", summarised, "workloads that match", "ablation")
    given = parser.parse_args(arguments)
    size, results = sitting.size_of(given), sitting.results_of(given)
    if not any(fnmatchcase(name, given.only) for name in load()):
        raise SystemExit(f"no workload matches {given.only!r}\n  fix: choose among {', '.join(load())}")
    if given.report:
        data = summary(results, size)
        if not data["variants"]:
            raise SystemExit(
                f"{sitting.path_of(given)} has no variant that has run beside auto\n  fix: run longer first"
            )
        write(data, sitting.pages_of(given))
        print(f"wrote ablation.json and evidence.md's table to {sitting.pages_of(given)}")
        return
    sitting.sit(given, results, lambda known: due(known, size, given.only), run)


if __name__ == "__main__":
    main()
