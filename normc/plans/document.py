"""A plan as JSON: schema "normc-plan", version 1. Written in one order, a fact a line, so that two diff well."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import NamedTuple, NoReturn

from normc.errors import NormcError
from normc.plans.decision import Option, decisions
from normc.plans.expression import write_formula
from normc.plans.fields import Fields
from normc.plans.reading import read_row
from normc.plans.row import Row
from normc.plans.sharpness import Sharpness
from normc.plans.wiring import Wiring, read_wiring

SCHEMA, VERSION = "normc-plan", 1
_BOUNDS = ("alpha", "beta", "gamma")
_KEYS = ("schema", "version", "hash", "model", "recipe", "options", "notes", "rows")
_OPTIONAL = ("checksum", "sharpness", "wiring")


class Contents(NamedTuple):
    """What a plan holds. Its sharpness and its wiring are written where they are known."""

    rows: tuple[Row, ...]
    model: str
    recipe: str
    options: tuple[tuple[str, Option], ...]
    notes: tuple[str, ...]
    sharpness: Sharpness | None = None
    wiring: Wiring | None = None


def write(contents: Contents, digest: str, checksum: str) -> str:
    """The document. NormcError, naming row and field, for a number that isn't finite."""
    head = {
        "schema": SCHEMA, "version": VERSION, "hash": digest, "checksum": checksum,
        "model": contents.model, "recipe": contents.recipe, "options": dict(contents.options),
        "notes": list(contents.notes),
    }  # fmt: skip
    if contents.sharpness is not None and contents.sharpness.known:
        head["sharpness"] = {name: getattr(contents.sharpness, name) for name in _BOUNDS}
    if contents.wiring is not None:
        head["wiring"] = contents.wiring.document(contents.rows)
    lines = [f' "{key}": {_line(contents.model, key, value)},' for key, value in head.items()]
    rows = [_row(row) for row in contents.rows]
    return "\n".join(["{", *lines, ' "rows": [', ",\n".join(rows), " ]", "}"]) + "\n"


def _line(place: str, key: str, value: object) -> str:
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        raise NormcError(
            f"{place} can't be saved: its {key} holds a number that isn't finite", "mend the plan"
        ) from None


def _row(row: Row) -> str:
    facts = {**decisions(row), **_beside(row)}
    facts["blocks"] = [{"label": label, "axis": axis, "spans": spans} for label, axis, spans in row.blocks]
    facts["scale"] = {"formula": write_formula(row.scale.formula), "per_block": list(map(float, row.scale.per_block))}
    return "  {\n" + ",\n".join(f'   "{key}": {_line(row.name, key, value)}' for key, value in facts.items()) + "\n  }"


def _beside(row: Row) -> dict[str, object]:
    """What a row holds beside its decisions."""
    return {
        "sensitivity": None if row.sensitivity is None else float(row.sensitivity),
        "magnitude": None if row.magnitude is None else float(row.magnitude),
        "fan_in": row.fan_in,
        "fan_out": row.fan_out,
        "state_bytes": row.state_bytes,
        "fallback": row.fallback,
        "frozen": row.frozen,
        "uses": [
            {"role": use.role, "op": use.op, "source": use.source, "module": use.module, "axes": list(use.axes)}
            for use in row.uses
        ],
        "evidence": [
            {"fact": e.fact, "claim": e.claim, "reason": e.reason, "op": e.op, "source": e.source} for e in row.evidence
        ],
    }


def read(text: str) -> tuple[Contents, dict[str, str]]:
    """What a document holds, and the hash and checksum that it claims; old ones have no checksum.

    NormcError for anything but a whole and consistent plan.
    """
    try:
        data = json.loads(text, object_pairs_hook=_without_repeats, parse_constant=_refuse)
    except RecursionError:
        raise NormcError("the plan is nested too deep", _FIX) from None
    except ValueError as problem:
        raise NormcError(f"the plan is no JSON: {problem}", _FIX) from None
    fields = Fields.of(data, "the plan", _KEYS, _OPTIONAL)
    if fields.text("schema") != SCHEMA:
        fields.fail("schema", f"is {fields.text('schema')!r}, not {SCHEMA!r}")
    if fields.whole("version") != VERSION:
        fields.fail("version", f"is {fields.whole('version')}, and this normc reads {VERSION}")
    options = tuple((name, _option(fields, name, value)) for name, value in fields.mapping("options").items())
    rows = tuple(read_row(item, f"row {number}") for number, item in enumerate(fields.items("rows")))
    wiring = read_wiring(fields.data["wiring"], rows) if "wiring" in fields.data else None
    contents = Contents(
        rows, fields.text("model"), fields.recipe("recipe"), options, fields.texts("notes"), _sharpness(fields), wiring
    )
    return contents, {name: fields.text(name) for name in ("checksum", "hash") if name in fields.data}


def _sharpness(fields: Fields) -> Sharpness | None:
    """None in a file that holds none."""
    if "sharpness" not in fields.data:
        return None
    held = Fields.of(fields.data["sharpness"], "the plan's sharpness", _BOUNDS)
    return Sharpness(held.number("alpha"), held.number("beta"), held.number("gamma"))


_FIX = "save it again with plan.to_json()"


def _option(fields: Fields, name: str, value: object) -> Option:
    if value is not None and not isinstance(value, str | int | float):
        fields.fail("options", f"holds a list or an object as {name[:80]!r}")
    if isinstance(value, float) and not math.isfinite(value):
        fields.fail("options", f"holds a number as {name[:80]!r} that isn't finite")
    return value


def _without_repeats(pairs: list[tuple[str, object]]) -> Mapping[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise NormcError(f"the plan repeats a key among {', '.join(map(repr, list(found)[:4]))}", _FIX)
    return found


def _refuse(constant: str) -> NoReturn:
    raise NormcError(f"the plan holds {constant}, which is no finite number", _FIX)
