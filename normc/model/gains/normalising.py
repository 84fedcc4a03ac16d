"""Norms: what comes out has size 1, and a change is divided by the size of what went in; lookups."""

from __future__ import annotations

import math

from normc.model.gains.local import UNIT, At, Back, Local, Size, gain
from normc.model.trace.graph import shape_of


@gain(
    "aten.layer_norm", "aten.rms_norm", "aten.group_norm", "aten.batch_norm", "aten.instance_norm",
    "aten.native_layer_norm", "aten.native_group_norm", "aten.native_batch_norm", "aten._fused_rms_norm",
    "aten._native_batch_norm_legit",
)  # fmt: skip
def normalised(at: At) -> Local:
    """1 / rms of the stream (THEORY A'2); 1 where every activation counts as of size 1. What comes out has size 1 even
    where that of the stream isn't known.
    """
    operand = at.data[0]
    if at.sizes.get(operand, UNIT) is None and not at.model.nominal:
        return Local(UNIT, (Back(operand, math.nan),))
    rms = at.size(operand).rms
    if rms == 0:
        raise LookupError("a norm of nothing")
    return Local(Size(1.0), (Back(operand, 1 / rms),))


@gain("aten.linalg_vector_norm", "aten.norm", "aten.frobenius_norm", "aten.linalg_norm")
def norm(at: At) -> Local:
    """The 2-norm of n entries: sqrt(n) rms; a change along the vector alone counts."""
    operand = at.data[0]
    count = math.prod(shape_of(operand)) / max(math.prod(at.shape), 1)
    size = math.sqrt(count) * at.size(operand).rms
    return Local(Size(size, size, 1), (Back(operand, math.sqrt(count) if at.model.nominal else 1.0),))


@gain("aten.var", "aten.var_mean", "aten.std")
def variance(at: At) -> Local:
    """Of n entries: hardly varies; slope 2 rms / sqrt(n) (of the root, 1 / sqrt(n))."""
    operand = at.data[0]
    count = math.prod(shape_of(operand)) / max(math.prod(at.shape), 1)
    size = at.size(operand)
    if at.name == "std":
        return Local(Size(size.deviation, size.deviation, 1), (Back(operand, count**-0.5),))
    square = size.deviation**2
    return Local(Size(square, square, 1), (Back(operand, 2 * size.deviation * count**-0.5),))


@gain("aten.embedding", "aten.embedding_bag", "aten.one_hot")
def looked_up(at: At) -> Local:
    """Rows on their norm's sphere have RMS 1; an index has no gradient."""
    return Local(Size(1.0), ())
