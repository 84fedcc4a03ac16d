"""Which runs are due: one grid of learning rates for all sizes, longer where the best of a size lies at an end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase

from benchmarks.transfer.contestants import CONTESTANTS
from benchmarks.transfer.sizes import SIZES, Size, task
from benchmarks.workloads.job import Job, Result, train
from benchmarks.workloads.optimizers import Contestant, significant

SEED = 0
POWERS = {"full": range(-3, 4), "quick": range(-1, 2)}  # factors of two around the contestant's lr
LONGER = {"full": 2, "quick": 0}  # how often each end may move
Results = Mapping[str, Result]


def job(contestant: Contestant, size: Size, lr: float, form: str) -> Job:
    """Return the run of an optimizer at a size."""
    return Job(size.label, contestant.name, lr, contestant.rest, contestant.decay, SEED, form)


def losses(results: Results, contestant: Contestant, size: Size, rates: list[float], form: str) -> list[float] | None:
    """Return the tuning losses of a size, one a rate; None before all have run."""
    found = [results.get(job(contestant, size, lr, form).key) for lr in rates]
    return [one.tuning for one in found if one is not None] if None not in found else None


def rates(results: Results, contestant: Contestant, form: str) -> list[float]:
    """Return the learning rates of all sizes, in order. An end moves once every size has run all that there are."""
    powers = list(POWERS[form])
    first, last = powers[0], powers[-1]
    while True:
        grid = [significant(contestant.lr * 2.0**power) for power in powers]
        known = [losses(results, contestant, size, grid, form) for size in SIZES[form].all()]
        best = [grid.index(_best(grid, own)) for own in known if own is not None and any(map(math.isfinite, own))]
        if None in known:
            return grid
        low = 0 in best and first - powers[0] < LONGER[form]
        high = len(grid) - 1 in best and powers[-1] - last < LONGER[form]
        if not low and not high:
            return grid
        powers = [powers[0] - 1] * low + powers + [powers[-1] + 1] * high


def _best(grid: list[float], own: list[float]) -> float:
    return min(zip(own, grid, strict=True))[1]


def due(results: Results, form: str, only: str = "*") -> list[Job]:
    """Return the runs without a result whose `size/optimizer` matches, optimizer by optimizer."""
    wanted: list[Job] = []
    for contestant in CONTESTANTS.values():
        grid = rates(results, contestant, form)
        sizes = [size for size in SIZES[form].all() if fnmatchcase(f"{size.label}/{contestant.name}", only)]
        wanted += [job(contestant, size, lr, form) for size in sizes for lr in grid]
    return [one for one in wanted if one.key not in results]


def run(given: Job, device: str, steps: int | None = None) -> Result:
    """Train. `steps` cuts the run short, not its schedule."""
    made = task(given.workload, given.size == "quick", given.seed, device)
    return train(given, made, CONTESTANTS[given.optimizer].build, device, steps)
