"""DistributedDataParallel: two processes over gloo, half of each batch in each."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import multiprocessing, nn

import normc
from benchmarks.hosts.host import Job, host
from benchmarks.hosts.plain import LR, loop, parts, task

RANKS = 2


def _plain(job: Job) -> nn.Module:
    return loop(job.steps, compiled=job.compiled, number=RANKS)


def _rank(rank: int, job: Job, meeting: Path) -> None:
    """One process of the run; rank 0 writes the checkpoint and all write their weights."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=RANKS)
    model = task().model()
    wrapped = nn.parallel.DistributedDataParallel(model)
    opt = normc.compile(wrapped, lr=LR, compile=job.compiled)
    rate = normc.schedule(opt, job.steps)
    for step in job.begin(model, opt, rate):
        wrapped(**parts(step, RANKS)[rank]).loss.backward()
        opt.step()
        opt.zero_grad()
        rate.step()
        if rank == 0:
            job.keep(step, model, opt, rate)
    torch.save(model.state_dict(), job.folder / f"rank{rank}.pt")
    torch.distributed.destroy_process_group()


@host("ddp", "DDP", "torch", ("transformers",), "gloo, 2 processes", _plain)
def ddp(job: Job) -> nn.Module:
    """The gradients are averaged, and every process steps by itself. RuntimeError if their weights differ."""
    meeting = job.folder / f"meeting{int(job.resume)}"
    multiprocessing.spawn(_rank, (job, meeting), RANKS)  # type: ignore[attr-defined,no-untyped-call]  # torch's own
    ends = [torch.load(job.folder / f"rank{rank}.pt", weights_only=True) for rank in range(RANKS)]
    if any(not torch.equal(end[name], ends[0][name]) for end in ends for name in end):
        raise RuntimeError("the processes' weights differ")
    model = task().model()
    model.load_state_dict(ends[0])
    return model
