"""Bytes of memory that a family's elementwise work moves: in its kernels, and as a pass an op on lists of tensors."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from normc.update.fused.kernels import Fused, Kernel, stack_dtype
from normc.update.ops.matrices import polar
from normc.update.program.program import Family, placeholders, split, state_dtype


def in_kernels(family: Family, plan: Fused, state: torch.dtype | None = None) -> int:
    """Bytes an entry of a parameter: what the kernels around the core read and write, and norms of stacks. `state` is
    the dtype of states, None that of the arithmetic.
    """
    wide = state_dtype(family.chains[0].row).itemsize
    weight = _weight(family)
    narrow: dict[str, int] = {}
    core = family.core
    if core is not None:
        for node in [node for place, node in core.inputs if place == 0 and node.meta.get("kind") != "number"]:
            dtype = stack_dtype(core, 0, node.name)
            narrow[node.name] = dtype.itemsize if dtype is not None else wide
        results = max(narrow.values(), default=wide)  # Newton-Schulz of 16 bits comes out in 16 bits
        narrow |= {node.name: results for place, node in core.outputs if place == 0}
    sizes = {"w": weight, "g": weight} | dict.fromkeys(plan.roles[2:], wide if state is None else state.itemsize)
    sizes |= dict.fromkeys(plan.codes, torch.int8.itemsize)  # their scales are a 64th of it

    def moved(kernel: Kernel | None) -> int:
        if kernel is None:
            return 0
        reads = sum(sizes[role] for role in plan.roles if role in kernel.reads)
        stacks = sum(narrow.get(name, wide) for name in (*kernel.loads, *(name for name, _ in kernel.stacks)))
        again = sum(2 * narrow.get(name, wide) for name in kernel.measured)
        return reads + stacks + again + sum(sizes.get(name, wide) for name, _ in kernel.states)

    return moved(plan.before) + moved(plan.after)


def on_lists(family: Family) -> int:
    """Bytes an entry if each op reads its operands and writes its result once, and stacks are copied: the least."""
    first = family.chains[0]
    parts = split(first.graph)
    wide = state_dtype(first.row).itemsize
    own = placeholders(first.graph, "weight") + placeholders(first.graph, "grad")
    entries = {node for node in first.graph.nodes if _per_entry(node, first.row.shape)}
    sizes = {node: _weight(family) if node in own else wide for node in entries}
    total = 0
    for node in (*parts.before, *parts.after):
        total += sum(sizes.get(source, 0) for source in node.all_input_nodes) + sizes.get(node, 0)
    if family.core is not None:
        stacks = [node for place, node in family.core.inputs if place == 0 and node in entries]
        total += 2 * wide * len(stacks)
        if any(node.target is polar for node in family.core.graph.nodes):
            total += 3 * wide  # its norm, and what it is divided into
    return total


def _per_entry(node: fx.Node, shape: tuple[int, ...]) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and tuple(value.shape[1:]) == shape


def _weight(family: Family) -> int:
    return {"float64": 8, "float32": 4}.get(family.chains[0].row.dtype, 2)
