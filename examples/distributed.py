"""The demo's model on two CPU processes: `python -m examples.distributed [--steps N] [--quick]`.

One process alone, then DDP, FSDP2 and tensor parallelism (TP) on two. All see the same batches and end at the same loss,
but for the order in which sums are taken.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

import normc
from workloads.tasks import Batch, Task, gpt2_task

RANKS = 2
WAYS = ("one process", "DDP", "FSDP2", "TP")


def wrapped(model: nn.Module, way: str) -> nn.Module:
    """The model as a host would wrap it."""
    if way == "DDP":
        return DistributedDataParallel(model)
    if way == "FSDP2":
        for block in model.transformer.h:  # type: ignore[union-attr, operator]
            fully_shard(block)
        fully_shard(model)
    if way == "TP":
        layers = {"transformer.h.*.mlp.c_fc": RowwiseParallel(), "transformer.h.*.mlp.c_proj": ColwiseParallel()}
        parallelize_module(model, init_device_mesh("cpu", (RANKS,)), layers)
    return model


def share(batch: Batch, way: str) -> Batch:
    """A rank's rows of a batch: all of them where the ranks share the model's work instead."""
    if way not in ("DDP", "FSDP2"):
        return batch
    return {name: rows.chunk(RANKS)[dist.get_rank()] for name, rows in batch.items()}


def train(task: Task, way: str, steps: int) -> tuple[float, float]:
    """Train; return the last batch's loss and the median milliseconds of a step of the optimizer."""
    model = wrapped(task.model(), way)
    opt = normc.compile(model, share(task.batch(0), way), compile=False)
    rates, times, loss = normc.schedule(opt, steps), [], torch.zeros(())
    for step in range(steps):
        loss = task.loss(model, share(task.batch(step), way))
        loss.backward()
        begin = time.perf_counter()
        opt.step()
        times.append(1e3 * (time.perf_counter() - begin))
        opt.zero_grad()
        rates.step()
    if way in ("DDP", "FSDP2"):
        loss = loss.detach().clone()
        dist.all_reduce(loss)
        loss /= RANKS
    return float(loss), sorted(times)[steps // 2]


def on_rank(rank: int, way: str, quick: bool, steps: int, folder: str) -> None:
    """What one process does. The first one writes what came of it."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    ranks = 1 if way == "one process" else RANKS
    dist.init_process_group("gloo", init_method=f"file://{folder}/{way}", rank=rank, world_size=ranks)
    found = train(gpt2_task(quick), way, steps)
    if rank == 0:
        Path(folder, f"{way}.txt").write_text(f"{found[0]} {found[1]}")
    dist.destroy_process_group()


def main() -> None:
    """Train in each way, and print a line of each."""
    parser = argparse.ArgumentParser(prog="python -m examples.distributed")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--quick", action="store_true", help="a toy of the model")
    given = parser.parse_args()
    print(f"GPT-2 on the Bible's bytes, {given.steps} steps; one thread a process")
    with tempfile.TemporaryDirectory() as folder:
        for way in WAYS:
            ranks = 1 if way == "one process" else RANKS
            spawn(on_rank, (way, given.quick, given.steps, folder), nprocs=ranks)
            loss, ms = map(float, Path(folder, f"{way}.txt").read_text().split())
            print(f"  {way:12} {ranks} process{'es' if ranks > 1 else '  '}  last loss {loss:.5f}  opt.step {ms:7.1f} ms")


if __name__ == "__main__":
    main()
