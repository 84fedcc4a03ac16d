"""Which runs are due, from the results that there are: a sweep, two runs around its best, then three other seeds.

Nothing else is remembered, so a sitting may end at any time and the next one goes on.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from benchmarks.workloads.job import Job, Result
from benchmarks.workloads.optimizers import CONTESTANTS, Contestant, Setting, grid, refined
from benchmarks.workloads.score import ratio
from benchmarks.workloads.workload import Workload

TUNING_SEED = 0
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
    """Return the tuning runs that are known so far: the grid, and two more once the grid is done."""
    jobs = jobs_of(workload, contestant.name, grid(contestant), size)
    first = best(results, jobs)
    more = () if first is None else refined(contestant, first)
    return jobs + jobs_of(workload, contestant.name, more, size)


def tuned(results: Results, workload: str, contestant: Contestant, size: str) -> Setting | None:
    """Return the best setting of all tuning runs; None before they are done."""
    return best(results, swept(results, workload, contestant, size))


def one_for_all(results: Results, workloads: Iterable[str], size: str) -> Setting | None:
    """Return the setting of auto's sweep that serves all workloads best; None before all sweeps are done.

    Best is the lowest geometric mean of steps to tuned AdamW's loss, then of final losses, by the tuning loss and seed.
    """
    auto, adamw = CONTESTANTS["auto"], CONTESTANTS["adamw"]
    scores = dict.fromkeys(grid(auto), (0.0, 0.0))
    for workload in workloads:
        chosen = tuned(results, workload, adamw, size)
        jobs = jobs_of(workload, auto.name, grid(auto), size)
        if chosen is None or any(job.key not in results for job in jobs):
            return None
        peer = curve([results[job.key] for job in jobs_of(workload, adamw.name, [chosen], size)], 1)
        for job in jobs:
            steps, losses = scores[job.setting]
            own = results[job.key]
            scores[job.setting] = steps + math.log(ratio(curve([own], 1), peer)), losses + math.log(own.tuning)
    return min(scores, key=lambda setting: scores[setting])


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
    """Return the jobs without a result, workload by workload, and those of the one setting for all at the end.

    `only` names the workloads to run; the one setting is always that of all of them.
    """
    names = list(workloads if only is None else only)
    wanted: list[Job] = []
    for name in names:
        for contestant in taking_part(workloads[name]):
            wanted += swept(results, name, contestant, size) + confirming(results, name, contestant, size)
    shared = one_for_all(results, workloads, size)
    for name in names:
        wanted += jobs_of(name, "auto", [shared] if shared else [], size, SEEDS)
    return [job for job in {job.key: job for job in wanted}.values() if job.key not in results]
