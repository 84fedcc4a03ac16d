"""What a plan decides, apart from why: the part of a row that two plans are compared and hashed by."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping

from normc.plans.expression import write_formula
from normc.plans.row import Row

Option = str | int | float | bool | None

# Relative differences below this say nothing: bf16 rounds a model's constants by as much.
RESOLUTION = 2.0**-8


def decisions(row: Row) -> Mapping[str, object]:
    """A row's decisions as plain data: no evidence, no uses, no sensitivity, nothing that names a source line.

    Whether a parameter waited for its gradient when the plan was made is none; that it never gets a step is.
    """
    return {
        "name": row.name,
        "aliases": list(row.aliases),
        "shape": list(row.shape),
        "dtype": row.dtype,
        "role": row.role,
        "axes": {
            "in": list(row.in_axes), "out": list(row.out_axes),
            "block": list(row.block_axes), "kernel": list(row.kernel_axes),
        },
        "blocks": [[block.label, block.axis, [list(span) for span in block.spans]] for block in row.blocks],
        "norm": row.norm,
        "rule": row.rule,
        "mass": None if row.mass is None else float(row.mass),
        "scale": [write_formula(row.scale.formula), [float(value) for value in row.scale.per_block]],
        "target": float(row.target),
        "frozen": row.frozen and row.rule == "none" and row.role != "unused",
        **({} if row.decay == 1.0 else {"decay": float(row.decay)}),  # rows had none before
    }  # fmt: skip


def digest(recipe: str, options: Iterable[tuple[str, Option]], rows: Iterable[Row]) -> str:
    """SHA-256, in hex, of what identifies a plan: the decisions that an update depends on.

    Plans share it across the order and the dtype of a model's parameters, the labels of blocks, the way a formula is
    written, and what rounding leaves of a number (`RESOLUTION`).
    """
    content = {
        "recipe": recipe,
        "options": dict(options),
        "rows": sorted((identity(row) for row in rows), key=lambda row: str(row["names"])),
    }
    return _sha256(content)


def checksum(recipe: str, options: Iterable[tuple[str, Option]], rows: Iterable[Row]) -> str:
    """SHA-256, in hex, of all decisions to the last digit, in their order: what shows that a file was changed."""
    return _sha256({"recipe": recipe, "options": dict(options), "rows": [decisions(row) for row in rows]})


def identity(row: Row) -> Mapping[str, object]:
    """The part of a row's decisions that tells its update from another."""
    told = dict(decisions(row))
    for key in ("name", "aliases", "dtype"):
        del told[key]
    return {
        **told,
        "names": sorted({row.name, *row.aliases}),
        "blocks": [[block.axis, [list(span) for span in block.spans]] for block in row.blocks],
        "mass": None if row.mass is None else _coarse(row.mass),
        "scale": [_coarse(value) for value in row.scale.per_block],
        "target": _coarse(row.target),
        **({} if row.decay == 1.0 else {"decay": _coarse(row.decay)}),
    }


def _coarse(number: float) -> int | None:
    """A number's place on a logarithmic grid. Powers of two and simple fractions, which rounding surrounds, lie inside
    its cells: the borders are transcendental, which the borders of decimal digits aren't.
    """
    return round(math.log(number) / RESOLUTION) if number > 0 else None


def _sha256(content: object) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()
