"""The Triton kernels of a family: what comes before its core and what comes behind it, each in one pass over memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from normc.update.fused.coding import loaded, stored
from normc.update.fused.dithering import SALT, dithered
from normc.update.fused.expressions import statements
from normc.update.ops.arithmetic import count
from normc.update.ops.matrices import flip, fold, join, part, polar, take
from normc.update.program.program import (
    ROWWISE,
    Chain,
    Core,
    Family,
    Split,
    placeholders,
    returned,
    rowwise_numbers,
    split,
)
from normc.update.program.source import INDENT, literal
from normc.update.runtime.codes import CODES, PASSING, SCALES, scale_of
from normc.update.runtime.faults import FINITE

# What only moves entries on the way to `polar`: its stacks may be as narrow as that works in.
_MOVES = (fold, flip, join, part, take)


@dataclass(frozen=True, slots=True)
class Rowwise:
    """A rowwise number of a list op: the variable in the kernel, and its value for each row of each chain. `own` ones
    are never written into the kernel, which others may share.
    """

    variable: str
    values: tuple[tuple[float, ...], ...]
    own: bool = False

    @property
    def constant(self) -> float | None:
        """The one value of all rows, if it is one."""
        distinct = {value for chain in self.values for value in chain}
        return distinct.pop() if len(distinct) == 1 and not self.own else None


@dataclass(frozen=True, slots=True)
class Kernel:
    """One pass: `loads` are stacks that it reads; `states` and `stacks` pairs of what is written and its value.

    Of the stacks `measured` it sums up each matrix's norm in parts.
    """

    name: str
    lines: tuple[str, ...]
    reads: frozenset[str]
    loads: tuple[str, ...]
    states: tuple[tuple[str, str], ...]
    stacks: tuple[tuple[str, str], ...]
    measured: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fused:
    """How a family runs on a device: kernels around its core, and the tables that they read.

    `roles` are what every row has a tensor of: "w", "g", and its states by name, of which `codes` are in 8 bits.
    """

    roles: tuple[str, ...]
    counts: tuple[str, ...]
    numbers: tuple[str, ...]
    rowwise: tuple[Rowwise, ...]
    before: Kernel | None
    after: Kernel | None
    codes: tuple[str, ...] = ()


def fused(family: Family) -> Fused | None:
    """The family's kernels, or None if an op has no form in one pass, or a state isn't shaped like its parameter."""
    first = family.chains[0]
    parts = split(first.graph)
    kinds = {kind for _, kind in first.states}
    if family.pieces or family.again or not kinds <= {"like", "count", CODES, SCALES, PASSING} or first.row.numel == 0:
        return None
    final = dict(zip((*placeholders(first.graph, "weight"), *placeholders(first.graph, "state")),
                     returned(first.graph), strict=True))  # fmt: skip
    counted = [node for node in final if node.meta.get("state") == "count"]
    if any(final[node].target is not count or final[node].args != (node,) for node in counted):
        return None
    core_inputs = list(dict.fromkeys(node for place, node in family.core.inputs if place == 0)) if family.core else []
    stacked = [node for node in core_inputs if node.meta.get("kind") != "number"]
    if any(node in counted for node in stacked):
        return None
    kept = {before: after for before, after in final.items() if before is not after and before not in counted}
    early = {before: after for before, after in kept.items() if after in parts.before}
    late = {before: after for before, after in kept.items() if after not in parts.before}
    across = dict.fromkeys(node for call in parts.after for node in call.all_input_nodes if node in parts.before)
    reread = {after: source for source, after in early.items()}
    if any(reread[node].meta.get("state") == CODES for node in across if node in reread):
        return None  # read again, codes say something else than what was encoded
    crossing = [node for node in across if node not in reread and node.target is not count]
    before = _kernel(f"before_{family.name}", parts.before, early, [*stacked, *crossing], [], first)
    after = _kernel(f"after_{family.name}", parts.after, late, [], [*parts.core, *crossing], first, reread)
    if (before is None) or (after is None):
        return None
    if family.core is not None:
        readers = {node.name: unit_readers(family.core, len(family.chains), node) for node in stacked}
        readers = {name: own for name, own in readers.items() if own and name not in after.loads}
        before = replace(before, measured=tuple(readers))
        for reader in (reader for own in readers.values() for reader in own):
            reader.meta["flag"] = "unit"
    return Fused(
        roles=("w", "g", *(name for name, kind in first.states if kind != "count")),
        counts=tuple(name for name, kind in first.states if kind == "count"),
        numbers=(*(node.name for node in placeholders(first.graph, "number")), FINITE),
        rowwise=tuple(_rowwise(family, parts)),
        before=before if before.states or before.stacks else None,
        after=after if after.states or after.stacks else None,
        codes=tuple(name for name, kind in first.states if kind == CODES),
    )


def _kernel(
    name: str,
    calls: Sequence[fx.Node],
    kept: dict[fx.Node, fx.Node],
    stacks: Sequence[fx.Node],
    given: Sequence[fx.Node],
    chain: Chain,
    reread: dict[fx.Node, fx.Node] | None = None,
) -> Kernel | None:
    """`given` are stacks, `reread` values that an earlier pass has stored."""
    sources = dict.fromkeys(source for call in calls for source in call.all_input_nodes)
    sources |= dict.fromkeys((*kept.values(), *stacks))
    inputs: dict[fx.Node, tuple[str, str]] = {}
    for node in sources:
        if node in calls:
            continue
        source = (reread or {}).get(node, node)
        if source.op == "placeholder":
            kind = "number" if source.meta["kind"] == "number" else source.meta.get("state", "tensor")
            inputs[node] = ("tensor" if kind in ("like", CODES, PASSING) else kind, _role(source))
        elif node in given:
            inputs[node] = ("tensor", node.name)
        else:
            return None
    found = statements(calls, inputs, [*kept.values(), *stacks])
    if found is None:
        return None
    values = iter(found.results)
    states = tuple((_role(node), next(values)) for node in kept)
    loads = tuple(node.name for node in given if node.name in found.reads)
    return Kernel(name, found.lines, found.reads, loads, states, tuple((node.name, next(values)) for node in stacks))


def _role(node: fx.Node) -> str:
    return {"weight": "w", "grad": "g"}.get(node.meta["kind"], node.name)


def _rowwise(family: Family, parts: Split) -> Iterator[Rowwise]:
    place = {node: index for index, node in enumerate((*parts.before, *parts.after))}
    others = [split(chain.graph) for chain in family.chains]
    for node, index in place.items():
        for name in ROWWISE:
            if name not in node.kwargs:
                continue
            values = []
            for chain, own in zip(family.chains, others, strict=True):
                found = rowwise_numbers([(*own.before, *own.after)[index]], [len(chain.rows)], name)
                values.append(found if isinstance(found, tuple) else (found,) * len(chain.rows))
            yield Rowwise(f"{node.name}_{name}", tuple(values))


def stack_dtype(core: Core, chain: int, name: str) -> torch.dtype | None:
    """bf16 for a stack that nothing but `polar` reads, in 16 bits; None for the state's own dtype."""
    readers = _readers(core, chain, name)
    narrow = all(
        user.target is polar and user.kwargs.get("dtype") in (torch.bfloat16, torch.float16) for user, _ in readers
    )
    return torch.bfloat16 if narrow else None


def unit_readers(core: Core, chains: int, node: fx.Node) -> list[fx.Node]:
    """The `polar` of each chain, where a stack holds whole matrices for one in fp16. Else none.

    They are normalised in the stack: the kernel that writes it in fp16, every BLOCK entries times a power of two, sums
    up norms, and `polar` takes it as it is. In bf16 rounding would be four times that which spoils null spaces.
    """
    found = []
    for place in range(chains):
        readers = _readers(core, place, node.name)
        if len(readers) != 1 or readers[0][0].target is not polar or not set(readers[0][1]) <= {flip, join}:
            return []
        user = readers[0][0]
        if user.kwargs.get("dtype") != torch.float16:
            return []
        found.append(user)
    return found


def _readers(core: Core, chain: int, name: str) -> list[tuple[fx.Node, tuple[Any, ...]]]:
    """The ops that read a chain's stack, and what moved its entries on the way there."""
    inputs = [item for item in core.graph.nodes if item.op == "placeholder"]
    place = [(own, node.name) for own, node in core.inputs].index((chain, name))
    waiting: list[tuple[fx.Node, tuple[Any, ...]]] = [(inputs[place], ())]
    found = []
    while waiting:
        source, moves = waiting.pop()
        for user in source.users:
            if user.target is part and user.args[0] is not source:
                continue  # which asks for its size alone
            if user.target in _MOVES:
                waiting.append((user, (*moves, user.target)))
            else:
                found.append((user, moves))
    return found


def printed(kernel: Kernel, plan: Fused) -> str:
    """The kernel's source."""
    head, body = _loaded(kernel, plan)
    body += kernel.lines
    states = list(kernel.states)
    if SALT in kernel.reads:
        above, within, states = dithered(states, plan.roles)
        head, body = head + above, body + within
    body += [stored(role, value, plan.codes) for role, value in states]
    for name, value in kernel.stacks:
        body += _into_stack(name, value, name in kernel.measured)
    head.append(f"stop = entries * tl.load(numbers + {plan.numbers.index(FINITE)}).to(tl.int64)")
    head.append("for start in range(tl.program_id(0).to(tl.int64) * BLOCK, stop, tl.num_programs(0) * BLOCK):")
    body = [*head, *(INDENT + line for line in body)]
    for name in kernel.measured:
        for kind in ("peak", "total"):
            place = f"{name}_{kind}s + slot * tl.num_programs(0) + tl.program_id(0)"
            body.append(f"tl.store({place}, {name}_{kind})")
    return "\n".join([*_opening(kernel, plan), *(INDENT + line for line in body)])


def _opening(kernel: Kernel, plan: Fused) -> list[str]:
    """The kernel's name and what it is given."""
    arguments = ["table", "slots", "numbers", "counts", "rows", *(f"{name}_stack" for name in _stacks(kernel))]
    arguments += [f"{name}_{kind}" for name in kernel.measured for kind in ("scales", "peaks", "totals")]
    arguments += ["entries", "stride"]
    types = [f"{role.upper()}: tl.constexpr" for role in plan.roles]
    constants = ["ALIGN: tl.constexpr", "WIDE: tl.constexpr", *types, "BLOCK: tl.constexpr"]
    lines = ["@jit", f"def {kernel.name}(", f"{INDENT}{', '.join(arguments)},", f"{INDENT}{', '.join(constants)},"]
    return [*lines, "):"]


def _stacks(kernel: Kernel) -> list[str]:
    return [*kernel.loads, *(name for name, _ in kernel.stacks)]


def _loaded(kernel: Kernel, plan: Fused) -> tuple[list[str], list[str]]:
    """What is read once a row, addresses and numbers, and what is read for every block of entries."""
    needed = {*kernel.reads, *(name for name, _ in kernel.states)}
    needed |= {scale_of(name) for name in plan.codes if name in needed}
    head = ["row = tl.program_id(1)"]
    head += [f"{name}_peak, {name}_total, {name}_power = 0.0, 0.0, 1.0" for name in kernel.measured]
    body = ["here = start + tl.arange(0, BLOCK)", "inside = here < entries"]
    head += ["slot = tl.load(slots + row).to(tl.int64)"] if _stacks(kernel) else []
    for role in (role for role in plan.roles if role in needed):
        place = f"table + {plan.roles.index(role)} * stride + row"
        head.append(f"{role}_at = tl.multiple_of(tl.load({place}).to(tl.pointer_type({role.upper()})), ALIGN)")
        if role in kernel.reads:
            body.append(f"{role} = {loaded(role, plan.codes)}.to(WIDE)")
    body += [
        f"{name} = tl.load({name}_stack + slot * entries + here, mask=inside, other=0.0).to(WIDE)"
        for name in kernel.loads
    ]
    head += [f"{name} = tl.load(numbers + {i})" for i, name in enumerate(plan.numbers) if name in kernel.reads]
    head += [
        f"{name} = tl.load(counts + {i} * stride + row)" for i, name in enumerate(plan.counts) if name in kernel.reads
    ]
    varying = [item for item in plan.rowwise if item.constant is None]
    for item in (item for item in plan.rowwise if item.variable in kernel.reads):
        own = f"tl.load(rows + {varying.index(item)} * stride + row)" if item in varying else ""
        head.append(f"{item.variable} = {own or literal(item.constant)}")
    return head, body


def _into_stack(name: str, value: str, measured: bool) -> list[str]:
    """A block of entries stored for the core; where they are `measured`, by a power of two that is kept beside them."""
    lines = []
    scale = f"{name}_scale"
    if measured:
        sums = f"{name}_peak, {name}_total, {name}_power"
        lines.append(f"{sums}, {scale} = measured({sums}, tl.where(inside, {value}, 0.0))")
        lines.append(f"tl.store({scale}s + slot * tl.cdiv(entries, BLOCK) + start // BLOCK, {scale})")
    entry = f"{value} * {scale}" if measured else value
    return [*lines, f"tl.store({name}_stack + slot * entries + here, {entry}, mask=inside)"]
