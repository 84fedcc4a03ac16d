"""Ranks on one machine: a function run by several processes of gloo, which meet in a file."""

from __future__ import annotations

import multiprocessing
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

Job = Callable[..., Any]

# Imported once, by the process that ranks are forked from: five seconds of a processor for each rank else.
_SHARED = ["torch._dynamo", "normc.compiler", "normc.spreading", "tests.distributed.wrapped", "pytest"]


def warmed() -> None:
    """Ranks of this process come from one that has imported all that they need."""
    multiprocessing.set_forkserver_preload(_SHARED)


def on_ranks(ranks: int, folder: Path, job: Job, *arguments: Any) -> list[Any]:
    """Run `job(*arguments)` on each rank, which finds the others by torch.distributed; return what each returned.

    `job` is a function of a module. What a rank raises is raised here.
    """
    warmed()
    meeting = folder / f"meeting-{len(list(folder.iterdir()))}"
    start_processes(_rank, (ranks, meeting, job, arguments), nprocs=ranks, start_method="forkserver")
    return [torch.load(f"{meeting}-{rank}", weights_only=False) for rank in range(ranks)]


def _rank(rank: int, ranks: int, meeting: Path, job: Job, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=ranks)
    try:
        torch.save(job(*arguments), f"{meeting}-{rank}")
        dist.barrier()
    finally:
        dist.destroy_process_group()
