"""Steps of two contestants in turn, timed: by events on a GPU, by a clock on a CPU."""

from __future__ import annotations

import gc
import re
import resource
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.step.contest import Contestant, Problem, Runner, refill
from benchmarks.step.quality import Trial, judge, pose

WARM, TURN = 6, 4  # steps before timing (graphs are captured by then), and steps of one contestant in a row on a GPU
SLOW = 10.0  # seconds; who takes twice as long for a first step on a CPU isn't warmed up, and timed once or twice only


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def timed(runner: Runner, steps: int, device: torch.device) -> list[float]:
    """Milliseconds of some steps in a row; the host may run ahead of a GPU, as it does in training.

    On one thread of a CPU it is the processor's time, which other programs on the machine don't add to.
    """
    if device.type == "cpu":
        clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
        found = []
        for _ in range(steps):
            runner.prepare()
            begin = clock()
            runner.step()
            found.append((clock() - begin) * 1e3)
        return found
    pairs = []
    synchronize(device)
    for _ in range(steps):
        runner.prepare()
        events = (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
        events[0].record()
        runner.step()
        events[1].record()
        pairs.append(events)
    synchronize(device)
    return [begin.elapsed_time(end) for begin, end in pairs]


def host(runner: Runner, device: torch.device, steps: int = 7) -> float | None:
    """Milliseconds until step() returns, with an idle GPU before it: the host's own work. None on a CPU."""
    if device.type == "cpu":
        return None
    found = []
    for _ in range(steps):
        runner.prepare()
        synchronize(device)
        start = time.perf_counter()
        runner.step()
        found.append((time.perf_counter() - start) * 1e3)
    synchronize(device)
    return statistics.median(found)


class Memory:
    """The most that is held over a `with` block beyond what was held before it, in bytes. On a GPU what graphs keep for
    themselves counts, whether it is in use or not.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.before, self.reserved, self.peak = device, 0, 0, 0

    def __enter__(self) -> Memory:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            self.before, self.reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
        elif self._resettable():
            self.before = self._resident("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            kept = torch.cuda.memory_reserved() - self.reserved
            self.peak = max(torch.cuda.max_memory_allocated() - self.before, kept)
        elif self.before:
            self.peak = max(self._resident("VmHWM") - self.before, 0)

    @staticmethod
    def _resettable() -> bool:
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            return False
        return True

    @staticmethod
    def _resident(field: str) -> int:
        text = Path("/proc/self/status").read_text()
        match = re.search(rf"{field}:\s+(\d+) kB", text)
        return int(match[1]) * 1024 if match else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def start(contestant: Contestant, given: Problem, chosen: list[Trial]) -> tuple[Runner, dict[str, Any]]:
    """Build a contestant and take its first steps: what they took, what they hold, and how good the first one was."""
    refill(given)
    pose(given, chosen)
    synchronize(given.device)
    begin = time.perf_counter()
    runner = contestant.build(given)
    runner.prepare()
    runner.step()
    synchronize(given.device)
    facts: dict[str, Any] = {"name": contestant.name, "kind": contestant.kind, "note": contestant.note}
    facts["build and first step here, s"] = round(time.perf_counter() - begin, 2)
    runner.settle()
    facts["quality"] = judge(runner, chosen)
    facts |= {"predicted": runner.predicted} if runner.predicted else {}
    refill(given)
    with Memory(given.device) as memory:
        slow = given.device.type == "cpu" and facts["build and first step here, s"] > 2 * SLOW
        for _ in range(0 if slow else WARM if given.device.type == "cuda" else 2):
            runner.prepare()
            runner.step()
    facts["state, MB"] = round(runner.state_bytes() / 1e6, 1)
    facts["workspace, MB"] = round(memory.peak / 1e6, 1)
    host_ms = host(runner, given.device)
    facts["host, ms"] = None if host_ms is None else round(host_ms, 3)
    return runner, facts


def beside(ours: Runner, other: Runner, steps: int, device: torch.device) -> tuple[list[float], list[float]]:
    """Times of both, in turns."""
    turn = TURN if device.type == "cuda" else 1
    mine: list[float] = []
    theirs: list[float] = []
    while len(theirs) < steps and not (device.type == "cpu" and sum(theirs) > 2e3 * SLOW):
        mine += timed(ours, turn, device)
        theirs += timed(other, turn, device)
    return mine, theirs


def summary(times: list[float]) -> dict[str, Any]:
    """Median, and the tenth and ninetieth percentile."""
    ordered = sorted(times)
    p10, p90 = (ordered[min(int(share * len(ordered)), len(ordered) - 1)] for share in (0.1, 0.9))
    median = statistics.median(times)
    return {"median, ms": round(median, 3), "p10, ms": round(p10, 3), "p90, ms": round(p90, 3), "steps": len(times)}
