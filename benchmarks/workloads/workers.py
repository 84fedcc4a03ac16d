"""Processes that run jobs until the time is up. A job that ends its process is a failed result, and others go on."""

from __future__ import annotations

import multiprocessing as mp
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from benchmarks.workloads.job import Job, Result, circumstances, run

Run = Callable[[Job, str], Result]  # a function of a module, that another process can import


@dataclass(slots=True)
class Worker:
    """A process, the line to it, and the job that it is at."""

    process: BaseProcess
    line: Connection
    job: Job | None = None


def work(line: Connection, device: str, run: Run) -> None:
    """Run what comes down the line until None comes."""
    torch.set_num_threads(1)
    while (job := line.recv()) is not None:
        line.send(run(job, device))


def started(device: str, run: Run = run) -> Worker:
    """Return a new process that waits for a job."""
    context: Any = mp.get_context("spawn")
    own, other = context.Pipe()
    process = context.Process(target=work, args=(other, device, run), daemon=True)
    process.start()
    other.close()
    return Worker(process, own)


def run_all(
    due: Callable[[], list[Job]],
    keep: Callable[[Result], None],
    device: str,
    processes: int,
    within: float,
    run: Run = run,
) -> None:
    """Run the jobs that `due` returns, which is asked again after each result, and hand results to `keep`.

    What still runs when `within` seconds are over is stopped and has no result.
    """
    end = time.monotonic() + within
    workers: list[Worker] = []
    try:
        while time.monotonic() < end:
            running = {worker.job.key for worker in workers if worker.job is not None}
            left = [job for job in due() if job.key not in running]
            while len(workers) < min(processes, len(left) + len(running)):
                workers.append(started(device, run))
            for worker in workers:
                if worker.job is None and left:
                    worker.job = left.pop(0)
                    worker.line.send(worker.job)
            busy = [worker for worker in workers if worker.job is not None]
            if not busy:
                return
            ready = wait([worker.line for worker in busy], timeout=max(0.0, end - time.monotonic()))
            for worker in [worker for worker in busy if worker.line in ready]:
                keep(_taken(worker, device))
                if worker.job is not None:
                    workers.remove(worker)
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.join()


def _taken(worker: Worker, device: str) -> Result:
    """Return what a worker has to say. One that died keeps its job, and the result says so."""
    assert worker.job is not None
    try:
        result: Result = worker.line.recv()
    except EOFError:
        worker.process.join()
        reason = f"its process ended with {worker.process.exitcode}"
        return Result(worker.job, (), 0, 0.0, *circumstances(device), failed=reason)
    worker.job = None
    return result
