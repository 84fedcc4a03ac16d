"""One suite: who can run, their first steps cold and warm, and their steps beside normc's."""

from __future__ import annotations

import gc
import json
import site
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.step.bars import BARS
from benchmarks.step.contest import CannotRunError, Contestant, Problem, Runner, problem
from benchmarks.step.measure import beside, start, summary, synchronize
from benchmarks.step.ours import ABLATED, OURS, WHOLE, ablated
from benchmarks.step.peers import PEERS
from benchmarks.step.processes import Job, TooSlowError, alarm, spawn
from benchmarks.step.quality import Trial, trials
from benchmarks.step.suites import SUITES

Say = Callable[[str], None]


def contestants(suite: str, device: str, ablate: tuple[str, ...] = ()) -> list[Contestant]:
    """Who steps a suite on a device, normc first."""
    more = [WHOLE] if suite.endswith("-whole") else []
    known = [OURS, *more, *(ablated(name) for name in ablate), *BARS, *PEERS]
    return [one for one in known if device in one.devices]


def named(name: str, suite: str, device: str) -> Contestant:
    """A contestant by its name."""
    if name.startswith(ABLATED):
        return ablated(name.removeprefix(ABLATED))
    return next(one for one in contestants(suite, device) if one.name == name)


def measured(job: Job, names: list[str], cold: bool, say: Say) -> list[dict[str, Any]]:
    """All contestants' results; those that couldn't run have a `skipped` with the reason."""
    results: dict[str, dict[str, Any]] = {name: {"name": name} for name in names}
    with tempfile.TemporaryDirectory() as folder:
        for name in names if cold else ():
            caches = Path(folder) / str(names.index(name))
            for column in ("cold first step, s", "first step from disk, s"):
                if "skipped" in results[name]:
                    break
                for found in spawn(replace(job, mode="first", names=(name,)), caches):
                    _merge(results[name], found, column)
            say(f"  {name:42} {_first(results[name])}")
        waiting = [name for name in names if "skipped" not in results[name]]
        while waiting:
            current = waiting[0]
            for found in spawn(replace(job, mode="beside", names=tuple(waiting)), Path(folder) / "all"):
                if "starting" in found:
                    current = found["starting"]
                elif "failed" in found:
                    results[current]["skipped"] = found["failed"]
                    say(f"  {current:42} {_line(results[current])}")
                    waiting = [] if current == OURS.name else waiting[waiting.index(current) + 1 :]
                    break
                else:
                    quiet = found.pop("so far", False)
                    results[found["name"]] |= found
                    if not quiet:
                        say(f"  {found['name']:42} {_line(found)}")
            else:
                waiting = []
    return list(results.values())


def _merge(into: dict[str, Any], found: dict[str, Any], column: str) -> None:
    if "failed" in found:
        into["skipped"] = found["failed"]
    else:
        into |= {column: found["seconds"]} if "seconds" in found else found


def _first(found: dict[str, Any]) -> str:
    cold, warm = found.get("cold first step, s"), found.get("first step from disk, s")
    return f"skipped: {found['skipped']}" if "skipped" in found else f"first step {cold} s, from disk {warm} s"


def _line(found: dict[str, Any]) -> str:
    if "skipped" in found:
        return f"skipped: {found['skipped']}"
    ours = f"  normc beside it {found['normc beside, ms']:.3f} ms" if "normc beside, ms" in found else ""
    return f"{found['median, ms']:10.3f} ms{ours}"


def in_here(job: Job) -> None:
    """What a process does that was spawned: print a line of JSON for each result."""
    warnings.simplefilter("ignore")
    if job.peers:
        site.addsitedir(job.peers)
    if job.device == "cuda":
        torch.ones(256, 256, device="cuda").mm(torch.ones(256, 256, device="cuda"))
    given = problem(SUITES[job.suite], job.device, job.quick, job.layers)
    work = first if job.mode == "first" else turns
    work(job, given, lambda found: print(json.dumps(found), flush=True))


def first(job: Job, given: Problem, emit: Callable[[dict[str, Any]], None]) -> None:
    """Seconds from nothing to the end of a first step: imports, the plan, generated code, compiling."""
    synchronize(given.device)
    begin = time.perf_counter()
    try:
        runner = named(job.names[0], job.suite, job.device).build(given)
    except CannotRunError as reason:
        return emit({"skipped": str(reason)})
    runner.prepare()
    runner.step()
    synchronize(given.device)
    return emit({"seconds": round(time.perf_counter() - begin, 2)})


def turns(job: Job, given: Problem, emit: Callable[[dict[str, Any]], None]) -> None:
    """normc, then each contestant in turns with it."""
    chosen = trials(given)
    emit({"starting": OURS.name})
    ours, facts = start(OURS, given, chosen)
    mine: list[float] = []
    for name in job.names:
        if name == OURS.name:
            continue
        emit({"starting": name})
        try:
            with alarm(job.limit):
                found = _beside(job, named(name, job.suite, job.device), ours, given, chosen)
        except (
            CannotRunError,
            TooSlowError,
            RuntimeError,
            ImportError,
            AttributeError,
            TypeError,
            ValueError,
        ) as reason:
            gc.collect()
            synchronize(given.device)  # ends this process if the device has failed: the next one goes on
            emit({"name": name, "skipped": (str(reason).strip() or type(reason).__name__).splitlines()[0][:300]})
            continue
        mine += found.pop("mine")
        emit(found)
        emit(facts | summary(mine) | {"so far": True})  # kept if another contestant ends this process
    if not mine:
        mine, _ = beside(ours, ours, job.steps, given.device)
    emit(facts | summary(mine))


def _beside(job: Job, contestant: Contestant, ours: Runner, given: Problem, chosen: list[Trial]) -> dict[str, Any]:
    runner, facts = start(contestant, given, chosen)
    mine, theirs = beside(ours, runner, job.steps, given.device)
    median = summary(mine)["median, ms"]
    ratio = round(summary(theirs)["median, ms"] / median, 3)
    return facts | summary(theirs) | {"normc beside, ms": median, "times normc's": ratio, "mine": mine}
