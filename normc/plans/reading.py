"""A row of a plan's document, read and held against itself: axes, fans, blocks and numbers have to agree."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import cast

import torch

from normc.errors import NormcError
from normc.plans.expression import read_formula, value_of, write_formula
from normc.plans.fields import Fields
from normc.plans.geometry import norms
from normc.plans.row import AXIS_USES, ROLES, AxisUse, Block, Evidence, Role, Row, Scale, Use

_KEYS = ("name", "aliases", "shape", "dtype", "role", "axes", "blocks", "norm", "rule", "mass", "scale", "target",
         "frozen", "sensitivity", "magnitude", "fan_in", "fan_out", "state_bytes", "fallback", "uses",
         "evidence")  # fmt: skip
_AXES = ("in", "out", "block", "kernel")


def read_row(data: object, place: str) -> Row:
    """The row that an object holds; `place` names it in errors until its name is known."""
    if isinstance(data, dict) and isinstance(data.get("name"), str):
        place = f"row {data['name'][:120]!r}"
    fields = Fields.of(data, place, _KEYS, ("decay",))
    shape = fields.wholes("shape")
    rank = len(shape)
    axes = Fields.of(fields.data["axes"], f"{place}, axes", _AXES)
    places = {key: axes.wholes(key, rank) for key in _AXES}
    draft = Row(
        name=fields.text("name"), aliases=fields.texts("aliases"), shape=shape, dtype=_dtype(fields),
        role=cast("Role", fields.one_of("role", ROLES)), uses=_uses(fields, rank), fan_in=fields.whole("fan_in"),
        fan_out=fields.whole("fan_out"), in_axes=places["in"], out_axes=places["out"], block_axes=places["block"],
        kernel_axes=places["kernel"], blocks=_blocks(fields, shape), norm=_norm(fields), rule=fields.word("rule"),
        mass=fields.maybe_number("mass"), sensitivity=fields.maybe_number("sensitivity"),
        magnitude=fields.maybe_number("magnitude"), scale=_scale(fields),
        target=fields.number("target"), state_bytes=fields.whole("state_bytes"), evidence=_evidence(fields),
        fallback=fields.maybe_text("fallback"), frozen=fields.flag("frozen"),
        decay=fields.number("decay") if "decay" in fields.data else 1.0,
    )  # fmt: skip
    _check_axes(fields, draft)
    _check_scale(fields, draft)
    return draft


def _dtype(fields: Fields) -> str:
    name = fields.text("dtype")
    if not isinstance(getattr(torch, name, None), torch.dtype):
        fields.fail("dtype", f"is {name[:80]!r}, which is no dtype of torch")
    return name


def _norm(fields: Fields) -> str:
    name = fields.word("norm")
    if name not in norms:
        fields.fail("norm", f"is {name!r}; known: {', '.join(norms)}")
    return name


def _uses(fields: Fields, rank: int) -> tuple[Use, ...]:
    found = []
    for number, item in enumerate(fields.items("uses")):
        use = Fields.of(item, f"{fields.place}, use {number}", ("role", "op", "source", "module", "axes"))
        axes = use.texts("axes")
        if len(axes) != rank or not set(axes) <= set(AXIS_USES):
            use.fail("axes", f"should say {', '.join(AXIS_USES)} for each of {rank} axes")
        role = cast("Role", use.one_of("role", ROLES))
        said = cast("tuple[AxisUse, ...]", axes)
        found.append(Use(role, use.text("op"), use.text("source"), use.text("module"), said))
    return tuple(found)


def _evidence(fields: Fields) -> tuple[Evidence, ...]:
    keys = ("fact", "claim", "reason", "op", "source")
    objects = [
        Fields.of(item, f"{fields.place}, evidence {n}", keys) for n, item in enumerate(fields.items("evidence"))
    ]
    return tuple(Evidence(*(item.text(key) for key in keys)) for item in objects)


def _blocks(fields: Fields, shape: tuple[int, ...]) -> tuple[Block, ...]:
    found = []
    taken: dict[int, list[tuple[int, int]]] = {}
    for number, item in enumerate(fields.items("blocks")):
        block = Fields.of(item, f"{fields.place}, block {number}", ("label", "axis", "spans"))
        axis = block.whole("axis", len(shape))
        spans = tuple(_span(block, span, shape[axis]) for span in block.items("spans"))
        if not spans:
            block.fail("spans", "is empty")
        taken.setdefault(axis, []).extend(spans)
        found.append(Block(block.text("label"), axis, spans))
    for axis, spans_there in taken.items():
        ordered = sorted(spans_there)
        if any(before[1] > after[0] for before, after in pairwise(ordered)):
            fields.fail("blocks", f"holds spans that overlap on axis {axis}")
    return tuple(found)


def _span(block: Fields, span: object, size: int) -> tuple[int, int]:
    if not isinstance(span, list) or len(span) != 2:
        block.fail("spans", "should hold pairs [start, stop]")
    start, stop = (block.whole_value("spans", edge, size + 1) for edge in span)
    if start >= stop:
        block.fail("spans", f"holds the empty span {start} to {stop}")
    return start, stop


def _scale(fields: Fields) -> Scale:
    scale = Fields.of(fields.data["scale"], f"{fields.place}, scale", ("formula", "per_block"))
    try:
        formula = read_formula(scale.data["formula"])
    except NormcError as problem:
        raise NormcError(f"{fields.place}: field 'scale': {problem.problem}", problem.fix) from None
    return Scale(formula, tuple(scale.number_value("per_block", value) for value in scale.items("per_block")))


def _check_axes(fields: Fields, row: Row) -> None:
    """Each axis does one thing, and the fans are the products of their axes; of all entries where no axis is known."""
    places = (*row.in_axes, *row.out_axes, *row.block_axes, *row.kernel_axes)
    if len(set(places)) < len(places):
        fields.fail("axes", "gives one axis two uses")
    fan_in = math.prod(row.shape[axis] for axis in (*row.in_axes, *row.kernel_axes))
    fan_out = math.prod(row.shape[axis] for axis in row.out_axes)
    unknown = not (row.in_axes or row.out_axes or row.kernel_axes)
    if unknown and row.fan_in * row.fan_out in (1, row.numel):
        return
    if row.fan_in != fan_in:
        fields.fail("fan_in", f"is {row.fan_in}, but its axes have {fan_in} entries")
    if row.fan_out != fan_out:
        fields.fail("fan_out", f"is {row.fan_out}, but its axes have {fan_out} entries")


def _check_scale(fields: Fields, row: Row) -> None:
    """One number a block, and each of them what the formula says."""
    if len(row.scale.per_block) != len(row.block_fans):
        fields.fail("scale", f"has {len(row.scale.per_block)} numbers for {len(row.block_fans)} blocks")
    formula = write_formula(row.scale.formula)
    for (fan_out, fan_in), number in zip(row.block_fans, row.scale.per_block, strict=True):
        said = value_of(formula, fan_out, fan_in / row.kernel if row.kernel else math.nan, row.kernel)
        if not math.isclose(said, number, rel_tol=1e-6):
            fields.fail("scale", f"holds {number:g} where its formula gives {said:g}")
