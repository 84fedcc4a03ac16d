"""What torch.distributed has wrapped is planned as the bare model is, and steps follow what is wrapped later."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.tensor import distribute_tensor
from torch.utils._python_dispatch import TorchDispatchMode

import normc
from tests.distributed.wrapped import GPT, WRAPPERS, batch, gpt, line, losses, parallel, sharded, weights
from tests.distributed.world import on_ranks

TWO, FOUR = ("ddp", "fsdp", "fsdp mixed", "tp"), ("hsdp", "fsdp over tp")
# Ranks add up gradients (and a row-parallel layer its features) in another order than one process does: float64's last
# places differ, and Newton-Schulz, which has gains in the hundreds, keeps them small.
CLOSE = 1e-12


class _Collectives(TorchDispatchMode):
    """Names of collectives that ran."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "c10d" in func.namespace:
            self.seen.append(func.name())
        return func(*args, **(kwargs or {}))


def contents(model: nn.Module) -> list[Any]:
    """What a plan must leave alone: classes, attributes, parameters, hooks, what FSDP knows."""
    found: list[Any] = [torch.get_rng_state().tolist()]
    for module in model.modules():
        found += [type(module), *vars(module), *map(id, module._parameters.values()), *map(id, module._buffers.values())]
        for table in ("_forward_pre_hooks", "_forward_hooks"):
            found += [(key, id(hook)) for key, hook in getattr(module, table).items()]
        if hasattr(module, "_get_fsdp_state"):
            state = module._get_fsdp_state()
            found += [state._is_root, state._training_state]
            found += [one.sharded_state for group in state._fsdp_param_groups for one in group.fsdp_params]
    return found


def planned(wrappers: tuple[str, ...]) -> dict[str, list[str]]:
    """What is wrong with the plan of each wrapped model, and with the model after it."""
    ids, found = batch(0), {}
    bare = normc.plan(gpt(), ids)
    for name in wrappers:
        model = WRAPPERS[name](gpt())
        wrong = found[name] = list[str]()
        before = contents(model)
        for frontend in ("recorder", "export") if name == "fsdp" else ("recorder",):
            with _Collectives() as collectives:
                plan = normc.plan(model, ids, frontend=frontend)
            if plan.checksum != bare.checksum or [row.name for row in plan.rows] != [row.name for row in bare.rows]:
                wrong.append(f"{frontend}: another plan")
            if plan.model != "GPT" or plan.notes != bare.notes:
                wrong.append(f"{frontend}: {plan.model}, {plan.notes}")
            wrong.extend(collectives.seen)
        if contents(model) != before:
            wrong.append("the model was changed")
        model(ids)  # FSDP leaves the root's parameters gathered
        if normc.plan(model, ids).checksum != bare.checksum:
            wrong.append("another plan after a forward")
    with torch.device("meta"):
        model = sharded(GPT().double(), line())
    bare_meta = normc.plan(GPT().to("meta").double(), ids)
    if normc.plan(model, ids).checksum != bare_meta.checksum:
        found["meta"] = ["another plan"]
    return found


def test_wrapped_models_have_the_bare_plan(tmp_path: Path) -> None:
    assert all(not any(found.values()) for found in on_ranks(2, tmp_path, planned, TWO))
    assert all(not any(found.values()) for found in on_ranks(4, tmp_path, planned, FOUR))


def compiled(model: nn.Module, *inputs: Any, **options: Any) -> normc.Optimizer:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("normc.backends.cpu.fast_bf16", lambda: False)
        return normc.compile(model, *inputs, lr=0.02, compile=False, **options)


def trained(cases: tuple[tuple[str, str], ...], recipe: str = "auto") -> dict[tuple[str, str], float]:
    """How far losses and weights are from those of one process, after five steps, for each (wrapper, when compiled)."""
    alone = gpt()
    want = losses(alone, compiled(alone, batch(0), recipe=recipe), None, range(5))
    found = {}
    for wrapper, when in cases:
        bare, wrap, start = gpt(), WRAPPERS[wrapper], 0
        got: list[float] = []
        if when == "after":
            model = wrap(bare)
            opt = compiled(model, batch(0), recipe=recipe)
        elif when == "after, waiting":
            model = wrap(bare)
            opt = compiled(model, recipe=recipe)
        else:
            opt = compiled(bare, *(() if when == "before, waiting" else (batch(0),)), recipe=recipe)
            if when == "between":
                got, start = losses(bare, opt, None, range(2)), 2
            model = wrap(bare)
        got += losses(model, opt, wrapper, range(start, 5))
        pairs = zip(weights(alone), weights(model), strict=True)
        apart = [float((a - b).detach().abs().max()) for a, b in pairs]
        found[wrapper, when] = max(*apart, *(abs(a - b) for a, b in zip(want, got, strict=True)))
    return found


def said_by(step: Any) -> str:
    """The NormcError that a call ends in."""
    with pytest.raises(normc.NormcError) as found:
        step()
    return str(found.value)


def disagreeing() -> tuple[str, str, float]:
    """What a step says where one rank's plan is another; where one rank alone has planned again; how far it has gone."""
    rank, ids = torch.distributed.get_rank(), batch(0)
    model = WRAPPERS["fsdp"](gpt())
    opt = compiled(model, ids, overrides={"*.up.weight": "sign"} if rank else None)
    start = weights(model)
    first = said_by(lambda: losses(model, opt, "fsdp", range(1)))
    moved = max(float((a - b).detach().abs().max()) for a, b in zip(start, weights(model), strict=True))
    model = WRAPPERS["fsdp"](gpt())
    opt = compiled(model, ids)
    losses(model, opt, "fsdp", range(1))
    for block in bare_blocks(model):
        block.adapted = True
    if rank:
        opt.replan(model, ids)
    for block in bare_blocks(model):
        block.adapted = False
    return first, said_by(lambda: losses(model, opt, "fsdp", range(1))), moved


def bare_blocks(model: Any) -> Any:
    return (model.module if hasattr(model, "module") else model).blocks


def woken(wrapper: str | None, by_hand: bool) -> tuple[list[float], list[torch.Tensor], str]:
    """Losses and weights where adapters run from the third step on, and the plan's hash."""
    bare = gpt()
    model = bare if wrapper is None else WRAPPERS[wrapper](bare)
    opt = compiled(model, batch(0))
    found = losses(model, opt, wrapper, range(2))
    for block in bare.blocks:
        block.adapted = True
    if by_hand:
        opt.replan(model, batch(0))
    found += losses(model, opt, wrapper, range(2, 4))
    assert opt.plan["blocks.0.spare.weight"].role != "unused"
    return found, weights(model), opt.plan.hash


def followed() -> dict[str, Any]:
    """Adapters that wake up, by themselves and by hand; weights that are made late; states that can't follow."""
    wrong: dict[str, Any] = {}
    want, ends, name = woken(None, False)
    for wrapper, by_hand in (("fsdp", False), ("fsdp", True), ("tp", False), ("ddp", False)):
        got, weights_of, hash_of = woken(wrapper, by_hand)
        apart = max(float((a - b).detach().abs().max()) for a, b in zip(ends, weights_of, strict=True))
        if hash_of != name or apart > CLOSE or max(abs(a - b) for a, b in zip(want, got, strict=True)) > CLOSE:
            wrong[f"{wrapper}, {by_hand}"] = apart
    wrong["late"] = materialised()
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1, 2), mesh_dim_names=("data", "tensor"))
    model = parallel(gpt(), mesh["tensor"])
    opt = compiled(model, batch(0))
    losses(model, opt, "tp", range(1))
    sharded(model, mesh["data"])
    wrong["again"] = said_by(lambda: losses(model, opt, "tp", range(1)))
    return wrong


def materialised() -> float:
    """How far training is from one process, of a model that is sharded and compiled on meta, and gets weights then."""
    plain = gpt()
    with torch.device("meta"):
        model = sharded(GPT().double(), line())
    opt = compiled(model, batch(0))
    model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), plain.parameters(), strict=True):
            parameter.copy_(distribute_tensor(value.detach(), parameter.device_mesh, parameter.placements))
        model.order.copy_(plain.order)
    losses(plain, compiled(plain, batch(0)), None, range(2))
    losses(model, opt, "fsdp", range(2))
    pairs = zip(weights(plain), weights(model), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)
