"""A tiny GPT, wrapped in every way that torch.distributed has, and trained beside one process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn import functional as F

from tests.distributed.models import whole

VOCABULARY, PLACES, WIDTH = 32, 8, 16


class Block(nn.Module):
    """Attention and an MLP, each behind a norm; `spare` is an adapter that runs where `adapted` is set.

    Keys have no bias: its gradient is zero but for rounding, which a norm of one would blow up.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(WIDTH, bias=False), nn.LayerNorm(WIDTH, bias=False)
        self.qkv, self.mix = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.spare = nn.Linear(WIDTH, WIDTH, bias=False)
        self.adapted = False

    def forward(self, x: Tensor) -> Tensor:
        """[batch, time, width] -> the same."""
        parts = self.qkv(self.first(x)).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (4, -1)).transpose(1, 2) for part in parts)
        x = x + self.mix(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        x = x + self.down(F.gelu(self.up(self.second(x))))
        return x + self.spare(x) if self.adapted else x


class GPT(nn.Module):
    """A block between a table and a head; its places are a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(PLACES, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(1))
        self.norm, self.head = nn.LayerNorm(WIDTH, bias=False), nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.order: Tensor
        self.register_buffer("order", torch.arange(PLACES), persistent=False)

    def adapt(self, runs: bool) -> None:
        """Run the adapters, or don't."""
        for block in self.blocks:
            block.adapted = runs  # type: ignore[assignment]  # a list of modules forgets which

    def forward(self, ids: Tensor) -> Tensor:
        """[batch, time] -> logits."""
        x = self.tokens(ids) + self.places(self.order[: ids.shape[1]])
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(self.norm(x))
        return out


def gpt() -> GPT:
    """The same weights every time, of float64."""
    torch.manual_seed(0)
    return GPT().double()


def batch(step: int) -> Tensor:
    """Eight rows of token numbers, the same on every rank."""
    return torch.randint(0, VOCABULARY, (8, PLACES), generator=torch.Generator().manual_seed(step))


def sharded(model: GPT, mesh: DeviceMesh, **options: Any) -> GPT:
    """FSDP2 of the blocks and the rest."""
    for block in model.blocks:
        fully_shard(block, mesh=mesh, **options)
    fully_shard(model, mesh=mesh, **options)
    return model


def parallel(model: GPT, mesh: DeviceMesh) -> GPT:
    """Tensor parallel, but for attention, norms and the table of places."""
    for block in model.blocks:
        parallelize_module(block, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})
    plan = {
        "tokens": RowwiseParallel(input_layouts=Replicate()),
        "head": ColwiseParallel(output_layouts=Replicate()),
    }
    return parallelize_module(model, mesh, plan)  # type: ignore[return-value]  # it returns what it is given


def line() -> DeviceMesh:
    """All ranks in one axis."""
    return init_device_mesh("cpu", (torch.distributed.get_world_size(),))


def square() -> DeviceMesh:
    """Four ranks in two axes."""
    return init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))


def _mixed(model: GPT) -> GPT:
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    return sharded(model, line(), mp_policy=policy)


def _over_parallel(model: GPT) -> GPT:
    mesh = square()
    return sharded(parallel(model, mesh["tensor"]), mesh["data"])


WRAPPERS: Mapping[str, Callable[[GPT], nn.Module]] = {
    "ddp": lambda model: nn.parallel.DistributedDataParallel(model, find_unused_parameters=True),
    "fsdp": lambda model: sharded(model, line()),
    "fsdp mixed": _mixed,
    "tp": lambda model: parallel(model, line()),
    "hsdp": lambda model: sharded(model, square()),
    "fsdp over tp": _over_parallel,
}


def share(ids: Tensor, wrapper: str) -> Tensor:
    """The rows of a batch that this rank sees: ranks of tensor parallelism see the same ones."""
    rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    if wrapper == "tp":
        return ids
    if wrapper == "fsdp over tp":
        rank, ranks = rank // 2, 2
    return ids.chunk(ranks)[rank]


def losses(model: nn.Module, opt: Any, wrapper: str | None, steps: range) -> list[float]:
    """Train on the batches of these steps; the loss over a whole batch at each. No wrapper is one process."""
    found = []
    for step in steps:
        ids = batch(step) if wrapper is None else share(batch(step), wrapper)
        opt.zero_grad()
        loss = F.cross_entropy(model(ids).flatten(0, 1), ids.roll(-1, 1).flatten())
        loss.backward()
        opt.step()
        total = loss.detach().clone()
        if wrapper is not None:
            torch.distributed.all_reduce(total)
            total /= torch.distributed.get_world_size()
        found.append(total.item())
    return found


def weights(model: nn.Module) -> list[Tensor]:
    """Copies of all parameters, whole, in the model's order."""
    return [whole(parameter) for parameter in model.parameters()]
