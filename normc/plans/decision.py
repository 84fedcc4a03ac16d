"""What a plan decides, apart from why: the part of a row that two plans are compared and hashed by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping

from normc.plans.expression import write_formula
from normc.plans.row import Row

Option = str | int | float | bool | None


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
    }  # fmt: skip


def digest(recipe: str, options: Iterable[tuple[str, Option]], rows: Iterable[Row]) -> str:
    """SHA-256, in hex, of the canonical JSON of all decisions."""
    content = {"recipe": recipe, "options": dict(options), "rows": [decisions(row) for row in rows]}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()
