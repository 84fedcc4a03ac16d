"""The judge of the other backends: the plain program, row by row, op by op, in float64."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from normc.backends.backend import Backend, backends
from normc.errors import NormcError
from normc.recipe.recipe import Recipe
from normc.update.program.listing import altered, reads, summary, waits
from normc.update.program.module import Loaded, Text
from normc.update.program.program import Chain, Program, evaluate, placeholders
from normc.update.runtime.run import Bucket, Entry, Run, Update


def interpret(chain: Chain, run: Run) -> None:
    """Run one row's plain graph on its own tensors, seen as a stack of one."""
    inputs: dict[str, object] = {"w": run.weights[0].unsqueeze(0), "g": run.grads[0].unsqueeze(0)}
    states = [node.name for node in placeholders(chain.graph, "state")]
    inputs |= {name: run.states[name][0].unsqueeze(0) for name in states}
    inputs |= {node.name: run.number(node.name) for node in placeholders(chain.graph, "number")}
    outputs = evaluate(chain.graph, inputs)
    kept: list[Tensor] = [run.weights[0], *(run.states[name][0] for name in states)]
    for tensor, value in zip(kept, outputs, strict=True):
        tensor.copy_(value[0])


def load(program: Program, recipe: Recipe) -> Loaded:
    """One bucket per row; state and arithmetic in float64. The source is the printed plain program."""
    buckets = [
        Bucket(f"row_{index}", partial(interpret, chain), chain.group, chain.states, (chain.row.name,))
        for index, chain in enumerate(program.chains)
    ]
    groups = [(chain.row, chain.group, False) for chain in program.chains]
    entries = {
        row.name: Entry(row.shape, group, summary(row), idle, waits(row))
        for row, group, idle in [*groups, *((row, 1, True) for row in program.idle)]
    }
    aliases = {alias: row.name for row in (*(row for row, _, _ in groups), *program.idle) for alias in row.aliases}
    defaults = recipe.defaults
    update = Update(
        program.plan,
        recipe.name,
        defaults,
        entries,
        aliases,
        tuple(buckets),
        compute_dtype=torch.float64,
        labels=recipe.labels,
        state=program.build.storage.like,
        stochastic=program.build.storage.stochastic,
        offload=program.build.storage.offload,
        reads=reads(program, len(defaults)),
        options=altered(recipe),
    )
    text = "\n\n".join(f"# {chain.row.name!r}\n{chain.graph}" for chain in program.chains)
    return Loaded(update, Text("", text))


def target(name: str) -> str:
    """Only "reference"."""
    if name != "reference":
        raise NormcError(f"no target is called {name!r}", "known: reference")
    return name


def polar_dtype(name: str) -> tuple[torch.dtype | None, str]:
    """Everything in float64."""
    return None, "the reference is all float64"


backends.add(
    "reference", Backend("reference", "plain, row by row, float64", False, target, polar_dtype, load), __name__
)
