"""Functions of whole square matrices that keep or turn their axes."""

from __future__ import annotations

from dataclasses import replace

from normc.ops.call import Call, Result, rule
from normc.ops.value import Value, fresh_dim


@rule("aten.matrix_exp", "aten.linalg_matrix_exp", "aten.matrix_power", "aten.linalg_matrix_power")
def power_series(call: Call) -> Result:
    """A sum of powers: the matrix's own axes."""
    value = call.value(call.first())
    return _of(call, value, value)


@rule("aten.linalg_inv", "aten.inverse", "aten.linalg_pinv")
def inverse(call: Call) -> Result:
    """What was fan-out is fan-in."""
    value = call.value(call.first())
    return _of(call, value, value.with_dims((*value.dims[:-2], value.dims[-1], value.dims[-2])))


@rule("aten.diag", "aten.diag_embed")
def diagonal(call: Call) -> Result:
    """A vector as a diagonal matrix: both axes run along it. Not a matrix's diagonal, nor one off the middle."""
    value = call.value(call.first())
    grown = value.with_dims((*value.dims, *value.dims[-1:]))
    if value.kind == "weight" and grown.shape == call.shape:
        return grown
    if value.kind == "weight":
        return replace(value.spread_out(call.shape), lost=value.lost or call.name)
    call.consume(call.first(), 0)
    return Value(value.kind, tuple(fresh_dim(size, True) for size in call.shape), touched=value.touched)


def _of(call: Call, value: Value, turned: Value) -> Value:
    if value.kind == "weight":
        return turned.through(call.name)
    call.consume(call.first(), 0)
    return Value(value.kind, tuple(fresh_dim(size, True) for size in call.shape), touched=value.touched)
