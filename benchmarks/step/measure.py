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


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def timed(runner: Runner, steps: int, device: torch.device) -> list[float]:
    """Milliseconds of some steps in a row; the host may run ahead of a GPU, as it does in training."""
    if device.type == "cpu":
        found = []
        for _ in range(steps):
            runner.prepare()
            start = time.perf_counter()
            runner.step()
            found.append((time.perf_counter() - start) * 1e3)
        return found
    pairs = []
    synchronize(device)
    for _ in range(steps):
        runner.prepare()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        runner.step()
        end.record()
        pairs.append((start, end))
    synchronize(device)
    return [start.elapsed_time(end) for start, end in pairs]


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
    """The most that is held over a `with` block beyond what was held before it, in bytes."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.before, self.peak = device, 0, 0

    def __enter__(self) -> Memory:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        elif self._resettable():
            self.before = self._resident("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            self.peak = torch.cuda.max_memory_allocated() - self.before
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
    facts["quality"] = judge(runner, chosen)
    refill(given)
    with Memory(given.device) as memory:
        for _ in range(WARM if given.device.type == "cuda" else 2):
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
    while len(theirs) < steps:
        mine += timed(ours, turn, device)
        theirs += timed(other, turn, device)
    return mine, theirs


def summary(times: list[float]) -> dict[str, Any]:
    """Median, and the tenth and ninetieth percentile."""
    ordered = sorted(times)
    pick = lambda share: ordered[min(int(share * len(ordered)), len(ordered) - 1)]  # noqa: E731
    return {"median, ms": round(statistics.median(times), 3), "p10, ms": round(pick(0.1), 3),
            "p90, ms": round(pick(0.9), 3), "steps": len(times)}  # fmt: skip
