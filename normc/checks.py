"""What every fact and every program has to be, whatever the model: a broken one is found behind the pass that made it.

Run after every pass where NORMC_CHECK=1 asks for it (normc/watching.py).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise

from normc.errors import NormcError
from normc.model.trace.graph import ModelGraph
from normc.passes.analyses.bind import Binding
from normc.passes.analyses.blocks import Blocks
from normc.passes.analyses.geometry import Rows
from normc.passes.analyses.layout import Layouts
from normc.passes.analyses.mass import Masses
from normc.passes.analyses.role import Roles
from normc.passes.analyses.sanity import Fallbacks
from normc.passes.analyses.sensitivity import Sensitivities
from normc.plans.geometry import NORMED, norms
from normc.plans.row import Block, Row
from normc.update.program.program import Chain, Program, placeholders, returned

Shapes = Mapping[str, tuple[int, ...]]


def check_fact(name: str, model: ModelGraph, fact: object) -> None:
    """NormcError that names the pass and what is wrong, if anything is."""
    shapes = {parameter.name: tuple(parameter.shape) for parameter in model.parameters}
    check = _FACTS.get(type(fact))
    _refuse(name, check(fact, shapes) if check is not None else ())


def check_program(name: str, before: Program, program: Program) -> None:
    """The same of the program that a rewrite made of the one `before`: it updates the same rows."""
    _refuse(name, _of_program(before, program))


def _refuse(name: str, problems: Iterable[str]) -> None:
    for problem in problems:
        raise NormcError(f"the pass {name!r} made a fact that can't be: {problem}", "report it, with the model")


def _each_once(found: Iterable[str], shapes: Shapes) -> Iterator[str]:
    counted = Counter(iter(found))  # of names, also where they are keys
    yield from (f"{name} is there {number} times" for name, number in counted.items() if number > 1)
    yield from (f"{name} is no parameter" for name in counted if name not in shapes)
    yield from (f"{name} is left out" for name in shapes if name not in counted)


def _within(name: str, shape: tuple[int, ...], axis: int, spans: Iterable[tuple[int, int]]) -> Iterator[str]:
    if not 0 <= axis < len(shape):
        yield f"{name} of shape {shape} has no axis {axis}"
        return
    for start, stop in spans:
        if not 0 <= start <= stop <= shape[axis]:
            yield f"entries {start} to {stop} of axis {axis} of {name}, which has {shape[axis]}"


def _binding(fact: Binding, shapes: Shapes) -> Iterator[str]:
    yield from _each_once(fact.contacts, shapes)
    for name, contacts in fact.contacts.items():
        for contact in contacts:
            if contact.parameter != name:
                yield f"a contact of {contact.parameter} among those of {name}"
            for part in contact.parts:
                yield from _within(name, shapes[name], part.axis, ())
            for axis, spans in contact.spans:
                yield from _within(name, shapes[name], axis, spans)


def _layouts(fact: Layouts, shapes: Shapes) -> Iterator[str]:
    yield from _each_once(fact.of, shapes)
    for name, layout in fact.of.items():
        if len(layout.axes) != len(shapes[name]):
            yield f"{len(layout.axes)} uses for the {len(shapes[name])} axes of {name}"
        if math.prod(shapes[name]) and min(layout.fan_in, layout.fan_out) < 1:
            yield f"fans {layout.fan_in} and {layout.fan_out} of {name}"


def _blocks(fact: Blocks, shapes: Shapes) -> Iterator[str]:
    for name, blocks in fact.of.items():
        if name not in shapes:
            yield f"{name} is no parameter"
        else:
            yield from _apart(name, shapes[name], blocks)


def _apart(name: str, shape: tuple[int, ...], blocks: tuple[Block, ...]) -> Iterator[str]:
    """Blocks lie within their axis, and no two share entries."""
    for block in blocks:
        yield from _within(name, shape, block.axis, block.spans)
    for axis in {block.axis for block in blocks}:
        spans = sorted(span for block in blocks if block.axis == axis for span in block.spans)
        for (_, stop), (start, _) in pairwise(spans):
            if start < stop:
                yield f"two blocks of {name} share entry {start} of axis {axis}"


def _roles(fact: Roles, shapes: Shapes) -> Iterator[str]:
    yield from _each_once(fact.of, shapes)
    yield from _each_once(fact.uses, shapes)
    yield from (f"{name} is no parameter" for name in fact.fallbacks if name not in shapes)


def _fallbacks(fact: Fallbacks, shapes: Shapes) -> Iterator[str]:
    yield from (f"{name} is no parameter" for name in fact.of if name not in shapes)


def _masses(fact: Masses, shapes: Shapes) -> Iterator[str]:
    yield from _each_once(fact.of, shapes)
    yield from (f"the mass of {name} is {mass}" for name, mass in fact.of.items() if not 0 <= mass <= 1 + 1e-9)
    if (whole := sum(fact.of.values())) > 2 + 1e-6:
        yield f"masses sum to {whole}"


def _sensitivities(fact: Sensitivities, shapes: Shapes) -> Iterator[str]:
    yield from _each_once(fact.of, shapes)
    for name, atom in fact.of.items():
        numbers = [number for number in (atom.sensitivity, atom.magnitude) if number is not None]
        yield from (f"{number} as a gain or a size of {name}" for number in numbers if not 0 <= number < math.inf)


def _rows(fact: Rows, shapes: Shapes) -> Iterator[str]:
    yield from _each_once(fact.of, shapes)
    for name, row in fact.of.items():
        yield from (f"{name} is {what}" for what in _of_row(row, shapes[name]))


def _of_row(row: Row, shape: tuple[int, ...]) -> Iterator[str]:
    if row.shape != shape:
        yield f"of shape {row.shape}, not {shape}"
    axes = (*row.in_axes, *row.out_axes, *row.block_axes, *row.kernel_axes)
    yield from (f"given axis {axis}" for axis in axes if not 0 <= axis < len(shape))
    yield from (f"given axis {axis} twice" for axis, number in Counter(axes).items() if number > 1)
    if len(row.scale.per_block) not in (1, len(row.blocks) or 1):
        yield f"given {len(row.scale.per_block)} scales for {len(row.blocks)} blocks"
    yield from (f"given the scale {value}" for value in row.scale.per_block if not math.isfinite(value))
    sided = row.rule in NORMED and norms[row.norm].shape == "matrix" and row.fallback is None and math.prod(shape) > 1
    if sided and not (row.in_axes or row.out_axes or row.kernel_axes):  # a window's places count as fan-in
        yield "a matrix with neither fan-in nor fan-out"
    yield from _apart("it", shape, row.blocks)


_FACTS: dict[type, Callable[..., Iterator[str]]] = {
    Binding: _binding, Layouts: _layouts, Blocks: _blocks, Roles: _roles, Fallbacks: _fallbacks, Masses: _masses,
    Sensitivities: _sensitivities, Rows: _rows,
}  # fmt: skip


def _of_program(before: Program, program: Program) -> Iterator[str]:
    chained = [row.name for chain in program.chains for row in chain.rows]
    counted = Counter([*chained, *(row.name for row in program.idle)])
    yield from (f"{name} is updated {number} times" for name, number in counted.items() if number > 1)
    rows = [row.name for chain in before.chains for row in chain.rows]
    yield from (f"{name} is updated no more" for name in rows if name not in counted)
    for chain in program.chains:
        yield from _of_chain(chain)
    if program.families:
        of_families = [row.name for family in program.families for chain in family.chains for row in chain.rows]
        of_families += [row.name for family in program.families for rows in family.again for row in rows]
        if sorted(of_families) != sorted(chained):
            yield f"functions update {len(of_families)} rows of {len(chained)}"


def _of_chain(chain: Chain) -> Iterator[str]:
    """What a chain returns takes the place of its weight and states: it has their shapes, once these are known."""
    kept = [*placeholders(chain.graph, "weight"), *placeholders(chain.graph, "state")]
    results = returned(chain.graph)
    if len(kept) != len(results):
        yield f"{chain.row.name} has {len(kept)} tensors, and gets {len(results)}"
        return
    for before, after in zip(kept, results, strict=True):
        if "val" not in before.meta or "val" not in after.meta:
            continue
        old, new = before.meta["val"].shape, after.meta["val"].shape
        if old != new:
            yield f"{before.name} of {chain.row.name} is {tuple(old)}, and becomes {tuple(new)}"
