"""kernels: how a device will run a batched program, and what each way of its is predicted to save. Changes no graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from normc.update.fused.kernels import fused
from normc.update.fused.module import varies
from normc.update.fused.traffic import in_kernels, on_lists
from normc.update.kernels.cost import Form, form, pays, plain_part, share_of, work
from normc.update.kernels.hopper import quack_missing
from normc.update.kernels.products import folds, hopper_pays, symmetric_pays
from normc.update.kernels.tiles import HOPPER_FROM, HOPPER_SAVES
from normc.update.ops.matrices import polar
from normc.update.program.build import Device
from normc.update.program.program import Decision, Family, Program, state_dtype
from normc.update.program.rewriting import rewrite
from normc.update.program.switches import SWITCHABLE, of_matrices
from normc.update.runtime.fused import AT_ONCE, lanes_of, stack_bytes, turns_of

SEGMENTS = 2  # of the Gram form


@rewrite("kernels")
def kernels(program: Program) -> Program:
    """The program with decisions of its running: forms of Newton-Schulz, symmetric products, kernels, turns, a graph.

    They are made here as on the device, from the target alone. Numbers are work or bytes that are counted, no times.
    """
    device = program.device
    decisions: list[Decision] = []
    launches = turns = functions = most = 0
    for family in program.families:
        plan = fused(family) if device.kernels else None
        decisions += _matrices(program, family, device, plan is not None)
        if plan is None or "kernels" in program.build.without:
            continue
        number = _turns(family) if "turns" not in program.build.without else 1
        parts = sum(kernel is not None for kernel in (plan.before, plan.after))
        measured = len(plan.before.measured) if plan.before is not None else 0
        products = sum(_launches(product, program, device, unit=bool(measured)) for product in _products(family))
        launches += number * (len(family.chains) * (parts + measured) + products)
        turns += number
        most = max(most, _held(family, number))
        functions += 1
        moved = in_kernels(family, plan, program.build.storage.like)
        decisions.append(
            Decision(
                "kernels",
                f"{family.name}: what is elementwise in {parts} pass{'es' * (parts > 1)} over tables of addresses",
                "every op has a form in one pass, and states are shaped like their parameters",
                f"{moved} instead of at least {on_lists(family)} bytes an entry, predicted",
            )
        )
        decisions += _in_turns(family, number)
    if functions and device.type == "cuda":
        where = f"{device.target} runs Triton's kernels, if Triton is installed there; else steps stay on lists"
        lanes = min(turns, lanes_of(most)) if "lanes" not in program.build.without else 1
        if lanes > 1:
            why = "one's memory traffic hides under another's products"
            decisions.append(Decision("lanes", f"{turns} turns in {lanes} streams", why, f"up to {lanes} at a time"))
        if "graph" not in program.build.without:
            what = f"the kernels of {functions} functions are one graph, from the third step on"
            saving = f"1 launch by the host instead of at least {launches}, predicted"
            decisions.append(Decision("graph", what, where, saving))
    decisions.sort(key=lambda decision: tuple(SWITCHABLE).index(decision.rule))
    return replace(program, decisions=program.decisions + tuple(decisions))


@dataclass(frozen=True, slots=True)
class Product:
    """One Newton-Schulz call: `number` matrices of sides n <= m, computed in `dtype`, over so many steps."""

    number: int
    n: int
    m: int
    dtype: torch.dtype
    steps: int


def _products(family: Family) -> Iterator[Product]:
    nodes: list[fx.Node] = list(family.core.graph.nodes) if family.core is not None else []
    for node in nodes:
        if node.target is polar:
            number, *sides = node.all_input_nodes[0].meta["val"].shape
            how: dict[str, Any] = {**node.kwargs}
            dtype = how.get("dtype") or state_dtype(family.chains[0].row)
            yield Product(number, min(sides), max(sides), dtype, len(how["polynomials"]))


def _form(product: Product, program: Program, device: Device) -> Form:
    own = of_matrices(program.build.without)
    where = torch.device(device.type)
    return form(product.n, product.m, product.dtype, where, product.steps, SEGMENTS, own, device.kernels)


def _matrices(program: Program, family: Family, device: Device, fits: bool) -> Iterator[Decision]:
    """Of every Newton-Schulz call that goes to normc.update.kernels."""
    own, where = of_matrices(program.build.without), torch.device(device.type)
    found = list(_products(family))
    if device.type == "cpu":
        fits = any(pays(one.n, one.m, one.dtype, where, one.steps, own) for one in found)
    for one in found if fits else ():
        n, m, dtype, steps = one.n, one.m, one.dtype, one.steps
        times = 1 + len(family.again)
        what = f"{family.name}: {one.number * times} matrices {n}x{m} in {str(dtype).removeprefix('torch.')}"
        kind = _form(one, program, device)
        if kind == "small":
            plain = replace(program.build, without=(*program.build.without, "small"))
            least = _launches(one, replace(program, build=plain), device, unit=False)
            yield Decision("small", what, "a matrix fits on chip", f"1 launch instead of {least}, predicted")
            continue
        share = share_of(n, dtype, where, own, device.kernels)
        gigas = {
            way: one.number * times * work(n, m, way, steps, SEGMENTS, share) / 1e9 for way in ("standard", "gram")
        }
        listed = ", ".join(f"{way} {giga:,.0f}" for way, giga in gigas.items())
        if kind == "gram":
            saving = f"{1 - gigas['gram'] / gigas['standard']:.0%} of the products, predicted"
            yield Decision("gram", f"{what}: the Gram form", f"GFLOP of dense products, predicted: {listed}", saving)
        else:
            why = f"GFLOP of dense products, predicted: {listed}"
            reason = "left out" if "gram" in own else "bf16 keeps too little of a Gram matrix"
            why = why if gigas["standard"] <= gigas["gram"] else f"{why}; {reason}"
            yield Decision("gram", f"{what}: the standard form", why)
        if symmetric_pays(n, dtype, where, own, device.kernels):
            dense = one.number * times * work(n, m, kind, steps, SEGMENTS, 1.0) / 1e9
            why = f"half of an {n}x{n} result is computed, in {share:.2f} of a dense product's time by its table"
            yield Decision("symmetric", what, why, f"{1 - gigas[kind] / dense:.0%} of the products, predicted")
        folded = folds(n, dtype, where, own, device.kernels) if kind == "standard" else "fold" not in own
        if device.type == "cuda" and "hopper" not in own and symmetric_pays(n, dtype, where, own, device.kernels):
            part = plain_part(n, m, kind, steps, SEGMENTS, share, folded)
            yield _hopper(n, dtype, device, what, part)
        if folded:
            entries = n * m * steps if kind == "standard" else n * n * 3 * (steps - SEGMENTS)
            mega = one.number * times * entries * dtype.itemsize / 1e6
            why = "the linear term is a diagonal, and nothing is added to a product"
            yield Decision("fold", what, why, f"at least {mega:,.0f} MB of reading, predicted")


def _hopper(n: int, dtype: torch.dtype, device: Device, what: str, part: float) -> Decision:
    """Whose kernel symmetric products are; a `part` of all products has no diagonal added."""
    major, minor = divmod(int(device.target.rsplit("_", 1)[1]), 10)
    if not hopper_pays(n, dtype, torch.device(device.type), capability=(major, minor)):
        why = f"a side under {HOPPER_FROM}" if n < HOPPER_FROM else f"{device.target} isn't cuda:sm_90"
        return Decision("hopper", f"{what}: normc's own symmetric products", why)
    missing = quack_missing()
    why = f"if quack-kernels is installed on {device.target}; here " + (missing or "it is")
    saving = f"at least {HOPPER_SAVES * part:.1%} of the products, predicted"
    return Decision("hopper", f"{what}: symmetric products of quack-kernels, {part:.0%} of all", why, saving)


def _launches(product: Product, program: Program, device: Device, unit: bool) -> int:
    """Kernels of one call: two that normalise, unless stacks are `unit` already, and one a product."""
    kind = _form(product, program, device)
    if kind == "small":
        return 1
    steps = product.steps
    return (0 if unit else 2) + (3 * steps if kind == "standard" else 4 * steps - min(SEGMENTS, steps))


def _turns(family: Family) -> int:
    """As FusedRun.turns counts them, where all parameters have gradients."""
    if family.core is None or varies(family.core):
        return 1
    rows = sum(len(chain.rows) for chain in family.chains)
    return turns_of(rows, max(family.chains, key=lambda chain: chain.row.numel).row.shape)


def _held(family: Family, number: int) -> int:
    """Bytes that a turn holds, of so many."""
    if family.core is None or varies(family.core):
        return 0
    largest = max(family.chains, key=lambda chain: chain.row.numel).row.shape
    return -(-sum(len(chain.rows) for chain in family.chains) // number) * stack_bytes(largest)


def _in_turns(family: Family, number: int) -> Iterator[Decision]:
    if number > 1:
        rows = sum(len(chain.rows) for chain in family.chains)
        what = f"{family.name}: {rows} parameters in {number} turns"
        yield Decision(
            "turns",
            what,
            f"at most {AT_ONCE / 2**20:.0f} MiB at once, and turns run side by side",
            f"{1 - 1 / number:.0%} of the stacks, predicted",
        )
