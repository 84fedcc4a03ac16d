"""A family as its fused step: kernels, the core between them on stacks, and the tables that the runtime needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from normc.update.fused import coding, dithering
from normc.update.fused.dithering import SALT
from normc.update.fused.kernels import Fused, Kernel, Rowwise, fused, printed, stack_dtype
from normc.update.kernels.newton_schulz import newton_schulz
from normc.update.ops.matrices import polar
from normc.update.program.program import ROWWISE, Core, Family, Program
from normc.update.program.source import INDENT, Printer, literal
from normc.update.program.switches import of_matrices
from normc.update.runtime.rounding import SEED

POWER = """@jit
def power(base, exponent):
    return tl.where(exponent == 0, 1.0, tl.exp(exponent * tl.log(base)))"""


class FusedForm:
    """Prints the families that have a fused form; the others stay lists of tensors."""

    def __init__(self, program: Program) -> None:
        self._plans = {family.name: fused(family) for family in program.families}
        if program.build.storage.stochastic:
            every = [*(row for chain in program.chains for row in chain.rows), *program.idle]
            salts = {name: float(place) for place, name in enumerate(sorted(row.name for row in every))}
            plans = [(family, self._plans[family.name]) for family in program.families]
            self._plans |= {family.name: _salted(plan, family, salts) for family, plan in plans if plan is not None}
        self._stochastic = program.build.storage.stochastic
        self._kernels: dict[str, str] = {}
        self._without = program.build.without

    def plan(self, family: Family) -> Fused | None:
        """The family's kernels, if it has any."""
        return self._plans[family.name] if "kernels" not in self._without else None

    def swaps(self, family: Family) -> Mapping[Any, Any]:
        """Newton-Schulz of a family that can be fused goes to the matrix kernels."""
        own = of_matrices(self._without)
        op = partial(newton_schulz, without=own) if own else newton_schulz
        return {polar: op} if self._plans[family.name] is not None else {}

    @property
    def helpers(self) -> list[str]:
        """Functions that kernels call."""
        plans = [plan for plan in self._plans.values() if plan is not None]
        if not plans or "kernels" in self._without:
            return []
        found = [POWER, dithering.HELPERS] if self._stochastic else [POWER]
        return [*found, coding.HELPERS] if any(plan.codes for plan in plans) else found

    def step(self, family: Family) -> str | None:
        """The kernels and the function that launches them; None for a family that stays as it is."""
        plan = self.plan(family)
        if plan is None:
            return None
        before, after = self._shared(plan, plan.before), self._shared(plan, plan.after)
        own = zip((plan.before, plan.after), (before, after), strict=True)
        texts = [printed(kernel, plan) for kernel, shared in own if kernel is not None and kernel == shared]
        return "\n\n\n".join([*texts, _launches(replace(plan, before=before, after=after), family)])

    def _shared(self, plan: Fused, kernel: Kernel | None) -> Kernel | None:
        """The kernel by the name under which it was first printed: families that differ in sizes alone share one."""
        if kernel is None:
            return None
        return replace(kernel, name=self._kernels.setdefault(printed(replace(kernel, name=""), plan), kernel.name))

    def bucket(self, printer: Printer, family: Family) -> list[str]:
        """What a fused bucket says beyond a plain one."""
        plan = self.plan(family)
        if plan is None:
            return []
        inner, deeper = INDENT * 2, INDENT * 3
        lines = [f"{inner}fused=Fused(", f"{deeper}step=fused_{family.name},"]
        lines += [f"{deeper}{name}={literal(getattr(plan, name))}," for name in ("roles", "counts", "numbers")]
        lines.append(f"{deeper}chains={literal(tuple(len(chain.rows) for chain in family.chains))},")
        if family.core is not None and not varies(family.core) and "turns" not in self._without:
            lines.append(f"{deeper}splits=True,")
        varying = [item for item in plan.rowwise if item.constant is None]
        chains = [tuple(item.values[place] for item in varying) for place in range(len(family.chains))]
        if varying:
            text = ", ".join(printer.constant("ROWS", chain) for chain in chains)
            lines.append(f"{deeper}rows=({text},),")
        return [*lines, f"{inner}),"]


def _salted(plan: Fused, family: Family, salts: Mapping[str, float]) -> Fused:
    """The plan with what kernels need to round stochastically what they write: the seed and a row's salt."""

    def reading(kernel: Kernel | None) -> Kernel | None:
        return replace(kernel, reads=kernel.reads | {SEED, SALT}) if kernel is not None and kernel.states else kernel

    values = tuple(tuple(salts[row.name] for row in chain.rows) for chain in family.chains)
    rowwise = (Rowwise(SALT, values, own=True), *plan.rowwise)
    before, after = reading(plan.before), reading(plan.after)
    return replace(plan, numbers=(SEED, *plan.numbers), rowwise=rowwise, before=before, after=after)


def _launches(plan: Fused, family: Family) -> str:
    lines = [f"def fused_{family.name}(run: FusedRun) -> None:"]
    places = range(len(family.chains))
    core = family.core
    made: dict[tuple[int, str], str] = {}
    if plan.before is not None:
        for place in places:
            stacks = []
            for name, _ in plan.before.stacks:
                made[place, name] = f"{name}_{place}"
                dtype = ", torch.float16" if name in plan.before.measured else _narrow(core, place, name)
                lines.append(f"{INDENT}{name}_{place} = run.new({place}{dtype})")
                stacks.append(made[place, name])
            measured = [f"parts_{name}_{place}" for name in plan.before.measured]
            lines += [f"{INDENT}{parts} = run.parts({place}, PARTS)" for parts in measured]
            lines.append(_launch(plan.before.name, place, stacks, measured))
            for name, parts in zip(plan.before.measured, measured, strict=True):
                lines.append(f"{INDENT}{name}_{place} = unit_norm({name}_{place}, {parts})")
    if core is not None:
        arguments = []
        for place, node in core.inputs:
            number = node.meta.get("kind") == "number"
            arguments.append(f"run.value({literal(node.name)})" if number else made[place, node.name])
        for place, node in core.outputs:
            made[place, node.name] = f"{node.name}_{place}"
        if plan.before is not None and plan.before.measured:
            arguments.append("unit=True")
        results = ", ".join(made[place, node.name] for place, node in core.outputs)
        left = f"({results},)" if len(core.outputs) == 1 else results
        lines.append(f"{INDENT}{left} = core_{family.name}({', '.join(arguments)})")
    if plan.after is not None:
        for place in places:
            own = {
                node.name: made[place, node.name] for index, node in (core.outputs if core else ()) if index == place
            }
            first = dict(zip((n.name for i, n in (core.outputs if core else ()) if i == 0), own.values(), strict=True))
            stacks = [first.get(name) or made[place, name] for name in plan.after.loads]
            lines.append(_launch(plan.after.name, place, stacks))
    return "\n".join(lines)


def varies(core: Core) -> bool:
    """Whether an op of the core has numbers of each row's own."""
    return any(isinstance(value, tuple) for n in core.graph.nodes for key, value in n.kwargs.items() if key in ROWWISE)


def _launch(kernel: str, place: int, stacks: list[str], measured: Sequence[str] = ()) -> str:
    parts = [f"parts=[{', '.join(measured)}]"] if measured else []
    return f"{INDENT}run.launch({kernel}, {', '.join([str(place), *stacks, *parts])})"


def _narrow(core: Core | None, place: int, name: str) -> str:
    """The dtype of a stack, where it isn't the state's."""
    if core is None or (place, name) not in [(own, node.name) for own, node in core.inputs]:
        return ""
    dtype = stack_dtype(core, place, name)
    return f", {dtype}" if dtype is not None else ""
