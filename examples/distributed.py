"""The demo's model on two CPU processes: `python -m examples.distributed [--steps N] [--quick]`.

One process alone, then DDP, FSDP2 and tensor parallelism (TP) on two. All see the same batches, and end at the same
loss but for the order in which sums are taken.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_module, distribute_tensor
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
        for block in model.transformer.h:  # type: ignore[union-attr]
            fully_shard(block)
        fully_shard(model)
    if way == "TP":
        mesh = init_device_mesh("cpu", (RANKS,))
        for block in model.transformer.h:  # type: ignore[union-attr]
            over_ranks(block.mlp.c_fc, mesh, out=True)
            over_ranks(block.mlp.c_proj, mesh, out=False)
    return model


def over_ranks(layer: nn.Module, mesh: DeviceMesh, *, out: bool) -> None:
    """Cut a layer of HF's GPT-2, whose weight is [in, out], along one: ColwiseParallel takes Linear alone."""

    def cut(name: str, module: nn.Module, mesh: DeviceMesh) -> None:
        placed = {"weight": Shard(1 if out else 0), "bias": Shard(0) if out else Replicate()}
        for key, parameter in list(module.named_parameters()):
            module.register_parameter(key, nn.Parameter(distribute_tensor(parameter, mesh, [placed[key]])))

    def whole(module: nn.Module, inputs: tuple[Tensor, ...], mesh: DeviceMesh) -> Tensor:
        return DTensor.from_local(inputs[0], mesh, [Replicate()])

    def together(module: nn.Module, result: DTensor, mesh: DeviceMesh) -> Tensor:
        return result.redistribute(placements=[Replicate()]).to_local()

    before, after = (whole, None) if out else (None, together)
    distribute_module(layer, mesh, cut, before, after)  # type: ignore[arg-type]  # of torch, whose hooks do return


def share(batch: Batch, way: str) -> Batch:
    """A rank's rows of a batch: all of them where the ranks share the model's work instead."""
    if way not in ("DDP", "FSDP2"):
        return batch
    return {name: rows.chunk(RANKS)[dist.get_rank()] for name, rows in batch.items()}


def train(task: Task, way: str, steps: int) -> tuple[float, float]:
    """Train; return the last batch's loss and the median milliseconds of a step of the optimizer."""
    model = wrapped(task.model(), way)
    opt = normc.compile(model, share(task.batch(0), way), backend="cpu:fp32", compile=False)
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
            print(f"  {way:12} x {ranks}   last loss {loss:.5f}   opt.step {ms:7.1f} ms")


if __name__ == "__main__":
    main()
