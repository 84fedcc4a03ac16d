"""Processes of one contestant or one suite, which may hang or die without taking the rest along.

A cold first step is one with empty compile caches; then the same again with what it left on disk; then all contestants
of a suite in one process, in turns with normc. A line of JSON a result; who ends a process is noted, and it goes on.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

CACHES = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton", "QUACK_CACHE_DIR": "quack",
          "CUTE_DSL_CACHE_DIR": "cute", "CUDA_CACHE_PATH": "cuda"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Job:
    """What one process does: a mode ("first" or "beside"), a suite, and contestants by name."""

    mode: str
    suite: str
    names: tuple[str, ...]
    device: str
    quick: bool
    layers: int
    steps: int
    peers: str
    limit: float


def spawn(job: Job, caches: Path) -> Iterator[dict[str, Any]]:
    """Results as they come. The last one is {"failed": why} if the process ended badly or took too long."""
    environment = os.environ | {name: str(caches / folder) for name, folder in CACHES.items()}
    environment |= {"TRITON_CACHE_AUTOTUNING": "1", "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "benchmarks.step", "--job", json.dumps(asdict(job))]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
        )
        assert process.stdout is not None
        begin = time.monotonic()
        overall = job.limit if job.mode == "first" else job.limit * (1 + len(job.names))
        with _killed_after(process, overall):
            for line in process.stdout:
                if line.startswith("{"):
                    yield json.loads(line)
        if process.wait() != 0:
            errors.seek(0)
            lines = [line.strip() for line in errors.read().splitlines() if line.strip()]
            late = time.monotonic() - begin >= overall
            reason = f"nothing within {overall:.0f} s" if late else cause(lines) or f"ended with {process.returncode}"
            yield {"failed": reason[:300]}


def cause(lines: list[str]) -> str:
    """What a process that ended badly said of it: its last line of an error, or else its last."""
    errors = [line for line in lines if "rror" in line and not line.startswith("frame #")]
    return (errors or lines or [""])[-1]


@contextmanager
def _killed_after(process: subprocess.Popen[str], seconds: float) -> Iterator[None]:
    """Kill the process and all that it started when time is up, and when the block is left."""

    def end() -> None:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(seconds, end)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class TooSlowError(Exception):
    """A contestant took longer than its limit."""


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """TooSlowError in this thread after some seconds."""

    def ring(*_: object) -> None:
        raise TooSlowError(f"nothing within {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
