"""Functions of whole square matrices that keep or turn their axes."""

from __future__ import annotations

from dataclasses import replace

from normc.model.ops.call import Call, Result, rule
from normc.model.ops.value import Value, fresh_dim


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


@rule("aten.kron")
def kronecker(call: Call) -> Result:
    """Every entry of the first times the whole second: each dimension runs along one of each."""
    values = [call.value(node) for node in call.operands]
    kind = next(kind for kind in ("data", "weight", "constant") if any(value.kind == kind for value in values))
    if kind == "data":
        return _mixed(call, values)
    rank = max(len(value.dims) for value in values)
    padded = [((),) * (rank - len(value.dims)) + value.dims for value in values]
    weights = [value for value in values if value.kind == "weight"]
    return replace(
        weights[0],
        dims=tuple(outer + inner for outer, inner in zip(*padded, strict=True)),
        parameters=frozenset().union(*(weight.parameters for weight in weights)),
        offsets={axis: offset for weight in weights for axis, offset in weight.offsets.items()},
        spread={axis: spans for weight in weights for axis, spans in weight.spread.items()},
        inner=tuple(inner for weight in weights for inner in weight.inner),
        via=tuple(dict.fromkeys(step for weight in weights for step in weight.via)),
        lost=next((weight.lost for weight in weights if weight.lost), ""),
    )


def _mixed(call: Call, values: list[Value]) -> Value:
    """A product with an activation in it: what a weight's axes are in it isn't told apart."""
    for slot, (node, value) in enumerate(zip(call.operands, values, strict=True)):
        if value.kind == "weight":
            call.meet(value, ["none"] * len(value.dims), "unknown", node)
        call.consume(node, slot)
    return Value("data", tuple(fresh_dim(size, True) for size in call.shape), touched=True)


def _of(call: Call, value: Value, turned: Value) -> Value:
    if value.kind == "weight":
        return turned.through(call.name)
    call.consume(call.first(), 0)
    return Value(value.kind, tuple(fresh_dim(size, True) for size in call.shape), touched=value.touched)
