"""A rank that dies or stalls in the middle of a step: the others end with one error, and no weight half stepped."""

from __future__ import annotations

import os
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

import normc
from normc.errors import NormcError
from normc.update.runtime.ranked import Ranked
from normc.update.runtime.spread import Exchange
from tests.distributed.models import IDS, Small, give, gradients, lay_out, optimizer
from tests.distributed.world import warmed

TIMEOUT = 12.0  # seconds that ranks wait for each other
# Where the last rank ends: what it is about to call, of which class, and how often it has done so before.
DEATHS: dict[str, tuple[type, str, int]] = {
    "agreeing": (Ranked, "agreed", 1),
    "there": (Exchange, "begin", 2),
    "working": (Exchange, "begin", 3),  # its messages there are sent, those back aren't
}


def lost(rank: int, ranks: int, folder: Path, where: str, ends: int, plan: normc.NormPlan) -> None:
    """Step once, then once more, in which the last rank sends itself the signal `ends`."""
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"
    dist.init_process_group(
        "gloo", init_method=meeting, rank=rank, world_size=ranks, timeout=timedelta(seconds=TIMEOUT)
    )
    model = Small()
    members = lay_out(model, "rows")
    opt = optimizer(model, plan)
    give(members, gradients(Small(), 0))
    if rank == ranks - 1:
        kind, name, before = DEATHS[where]
        call, calls = getattr(kind, name), [0]

        def dying(*given: Any) -> Any:
            calls[0] += 1
            if calls[0] > before:
                os.kill(os.getpid(), ends)
            return call(*given)

        setattr(kind, name, dying)
    opt.step()
    give(members, gradients(Small(), 1))
    shards = {name: parameter.to_local().detach().clone() for name, parameter in members.items()}  # type: ignore[attr-defined]
    start, said = time.monotonic(), ""
    try:
        opt.step()
    except NormcError as error:
        said = str(error)
    moved = [name for name, old in shards.items() if not torch.equal(members[name].to_local(), old)]  # type: ignore[attr-defined]
    torch.save((said, moved, time.monotonic() - start), folder / f"rank-{rank}")
    os._exit(0)  # a group that has lost a rank can't be left in order


@pytest.mark.slow
@pytest.mark.parametrize(("where", "ends"), [(where, signal.SIGKILL) for where in DEATHS] + [("there", signal.SIGSTOP)])
def test_the_others_end_with_one_error_and_whole_weights(where: str, ends: int, tmp_path: Path) -> None:
    ranks, plan = 3, normc.plan(Small(), IDS, recipe="muon")
    warmed()
    started = start_processes(
        lost, (ranks, tmp_path, where, ends, plan), nprocs=ranks, join=False, start_method="forkserver"
    )
    *survivors, last = started.processes
    for process in survivors:
        process.join(120)
    last.kill()
    last.join(10)
    for rank in range(ranks - 1):
        said, moved, seconds = torch.load(tmp_path / f"rank-{rank}")
        assert f"rank {rank} lost another rank in the middle of a step" in said and "last checkpoint" in said
        assert moved == [] and seconds < 2 * TIMEOUT
