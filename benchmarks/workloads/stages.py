"""Which runs are due, from the results that there are: a sweep, runs around its best, then three other seeds.

Nothing else is remembered, so a sitting may end at any time and the next one goes on.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from benchmarks.workloads.job import Job, Result
from benchmarks.workloads.optimizers import CONTESTANTS, Contestant, Setting, grid, refined, undecayed
from benchmarks.workloads.workload import Workload
from normc.recipe.by_name import recipes

TUNING_SEED = 0
RUNS = 12  # seven learning rates with decay, three without, two around the best
SEEDS = (1, 2, 3)  # none that settings were chosen by
Results = Mapping[str, Result]


def taking_part(workload: Workload) -> Iterator[Contestant]:
    """Yield the optimizers that a workload is for."""
    return (one for one in CONTESTANTS.values() if workload.images or not one.images)


def jobs_of(
    workload: str, optimizer: str, settings: Iterable[Setting], size: str, seeds: Iterable[int] = (TUNING_SEED,)
) -> list[Job]:
    """Return a job for each setting and seed."""
    return [
        Job(workload, optimizer, setting.lr, setting.rest, setting.decay, seed, size)
        for setting, seed in itertools.product(settings, seeds)
    ]


def best(results: Results, jobs: Iterable[Job]) -> Setting | None:
    """Return the setting of the lowest tuning loss; None if a job is missing or none has a finite loss."""
    found = [results.get(job.key) for job in jobs]
    able = [result for result in found if result is not None and math.isfinite(result.tuning)]
    if None in found or not able:
        return None
    return min(able, key=lambda result: result.tuning).job.setting


def swept(results: Results, workload: str, contestant: Contestant, size: str) -> list[Job]:
    """Return the tuning runs that are known so far: the grid, three without decay, two around the best of all."""
    jobs = jobs_of(workload, contestant.name, grid(contestant), size)
    for more in (undecayed, refined):
        first = best(results, jobs)
        jobs += jobs_of(workload, contestant.name, () if first is None else more(contestant, first), size)
        if first is None:
            break
    return jobs


def tuned(results: Results, workload: str, contestant: Contestant, size: str) -> Setting | None:
    """Return the best setting of all tuning runs; None before they are done."""
    jobs = swept(results, workload, contestant, size)
    return best(results, jobs) if len(jobs) == RUNS else None


def default() -> Setting:
    """Return the one setting of auto for all workloads: the recipe's own lr and weight decay."""
    recipe = recipes["auto"]
    assert recipe.lr is not None
    return Setting(recipe.lr, 1.0, recipe.defaults[0]["weight_decay"])


def curve(results: Sequence[Result], column: int) -> list[tuple[int, float]]:
    """Return the mean loss over results at each measured step; a run that stopped early or failed counts as inf.

    Column 1 is the tuning loss, 2 the reported one.
    """
    runs = [{row[0]: row[column] for row in result.measured} for result in results]
    steps = sorted({step for run in runs for step in run} | {max(result.steps for result in results)})
    return [(step, sum(run.get(step, math.inf) for run in runs) / len(runs)) for step in steps]


def confirming(results: Results, workload: str, contestant: Contestant, size: str) -> list[Job]:
    """Return the runs of the tuned setting from the other seeds; none before it is known."""
    chosen = tuned(results, workload, contestant, size)
    return jobs_of(workload, contestant.name, [chosen] if chosen else [], size, SEEDS)


def due(results: Results, workloads: Mapping[str, Workload], size: str, only: Iterable[str] | None = None) -> list[Job]:
    """Return the jobs without a result, optimizer by optimizer. `only` names the workloads to run."""
    names = list(workloads if only is None else only)
    wanted = [job for name in names for job in jobs_of(name, "auto", [default()], size, SEEDS)]
    for contestant in CONTESTANTS.values():
        for name in names:
            if contestant in taking_part(workloads[name]):
                wanted += swept(results, name, contestant, size) + confirming(results, name, contestant, size)
    return [job for job in {job.key: job for job in wanted}.values() if job.key not in results]
