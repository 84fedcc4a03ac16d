"""One process a model, so that none can hang or take down the sweep."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import Any, NamedTuple

Outcome = dict[str, Any]


class _Running(NamedTuple):
    name: str
    process: ForkProcess
    started: float


def spread(
    names: list[str], work: Callable[[str], Outcome], jobs: int, timeout: float, within: float
) -> Iterator[tuple[str, Outcome | None, float]]:
    """(name, what `work` returned, seconds) as they come in; None for one that died or took longer than `timeout`.

    After `within` seconds no more are started.
    """
    fork = multiprocessing.get_context("fork")
    waiting, running = list(reversed(names)), dict[Connection, _Running]()
    start = time.monotonic()
    while waiting or running:
        while waiting and len(running) < jobs and time.monotonic() - start < within:
            name = waiting.pop()
            here, there = fork.Pipe(duplex=False)
            process = fork.Process(target=_child, args=(there, work, name))
            process.start()
            there.close()
            running[here] = _Running(name, process, time.monotonic())
        if not running:
            return
        for ready in wait(list(running), timeout=0.5):
            assert isinstance(ready, Connection)
            done = running.pop(ready)
            outcome: Outcome | None = None
            with contextlib.suppress(EOFError):
                outcome = ready.recv()
            done.process.join()
            yield done.name, outcome, time.monotonic() - done.started
        late = [(here, one) for here, one in running.items() if time.monotonic() - one.started > timeout]
        for here, one in late:
            del running[here]
            one.process.kill()
            one.process.join()
            yield one.name, None, time.monotonic() - one.started


def _child(there: Connection, work: Callable[[str], Outcome], name: str) -> None:
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    there.send(work(name))
    there.close()
