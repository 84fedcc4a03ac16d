"""Products that sum over an axis: linear and the matmul family. What is summed with an activation is fan-in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from normc.model.ops.call import Call, Result, rule
from normc.model.ops.choosing import chooses, permutes
from normc.model.ops.elementwise import combined
from normc.model.ops.kept import has_runs, over, still
from normc.model.ops.lookup import picked_dims
from normc.model.ops.meeting import meet_elementwise
from normc.model.ops.overlay import overlaid
from normc.model.ops.value import Dim, Inner, Made, Value, as_feature, dim_size, fresh_dim, mixed, plain, result_dim


def product(call: Call, left: Any, right: Any) -> Value:
    """left [..., i, k] @ right [..., k, j], either of which may be a weight, a constant or an activation.

    A constant (a table of sines) that a weight is multiplied with stands where an activation would, and so does a
    weight that was repeated for every sample (learned queries), before another one.
    """
    a, b = call.value(left), call.value(right)
    if _is_outer(call, a, b):
        return combined(call.named("aten.mul"), [left, right], [a, b], call.shape)
    both = a.kind == "weight" and b.kind == "weight"
    if both and a.expanded() == b.expanded():
        return _weight_product(call, a, b)
    if {a.kind, b.kind} == {"weight", "constant"}:
        constant, weight = (left, b) if b.kind == "weight" else (right, a)
        if weight.shape == call.shape and permutes(constant):
            return weight
        vector = len(a.dims) == len(b.dims) == 2 and a.shape[-1] == 1
        followed = call.node.meta.get("grad", True) and not (a.lost or b.lost)
        if vector or not followed:  # one round of a power iteration, or what becomes a weight still
            return _weight_product(call, a, b)
        if b.kind == "weight" and len(b.dims) == 2 and chooses(call, left) == "hard":
            picked = picked_dims(b.dims[0], call.shape[: len(a.dims) - 1], "index")
            return b.with_dims((*picked, b.dims[1]))
    if b.kind == "weight" and not (both and b.expanded()):
        x = call.data(left, 0)
        uses = ["block"] * (len(b.dims) - 2) + (["in", "out"] if len(b.dims) > 1 else ["in"])
        _meet_summed(call, b, uses, left)
        out: tuple[Dim, ...] = (result_dim(b.dims[-1]),) if len(b.dims) > 1 else ()
        (x,) = still([a], [x], [(-1,)])
        result = _result(call, x.with_dims(x.dims[:-2]), b.dims[:-2], (*x.dims[-2:-1], *out), b)
        return replace(result, made=_made(call, a, b, left, -2))
    if a.kind == "weight" and not (both and a.expanded()):
        x = call.data(right, 1)
        uses = ["block"] * (len(a.dims) - 2) + (["out", "in"] if len(a.dims) > 1 else ["in"])
        _meet_summed(call, a, uses, right)
        out = (result_dim(a.dims[-2]),) if len(a.dims) > 1 else ()
        (x,) = still([b], [x], [(-2 if len(x.dims) > 1 else -1,)])
        tail = x.dims[-1:] if len(x.dims) > 1 else ()
        result = _result(call, x.with_dims(x.dims[:-2]), a.dims[:-2], (*out, *tail), a)
        return replace(result, made=_made(call, b, a, right, -1))
    for operand, value, along in ((left, a, -1), (right, b, -2 if len(b.dims) > 1 else -1)):
        call.separate(operand, range(len(value.dims) - 2), (along,) if value.dims else ())
    for chosen, summed in ((left, b.dims[-2:-1] or b.dims), (right, a.dims[-1:])):
        if any(factor.runs for dim in summed for factor in dim) and chooses(call, chosen):
            call.mix(summed[0])
    x, y = call.data(left, 0), call.data(right, 1)
    x, y = still([a, b], [x, y], [(-1,), (-2 if len(b.dims) > 1 else -1,)])
    return _of_activations(call, x, y)


def _is_outer(call: Call, a: Value, b: Value) -> bool:
    """Whether one weight is multiplied without a sum: along an axis of length one, which is no axis of its own."""
    if len(a.dims) < 2 or len(b.dims) < 2 or dim_size(a.dims[-1]) != 1:
        return False
    weights = [value for value in (a, b) if value.kind == "weight"]
    own = [call.record.shapes[name] for weight in weights for name in weight.parameters]
    return len(weights) == 1 and not weights[0].lost and not any(1 in shape for shape in own)


def _of_activations(call: Call, x: Value, y: Value) -> Value:
    """The product of two activations. Of at most one of them more is known than where its features lie."""
    touched = x.touched or y.touched
    rows, columns = (x.dims[-2:-1], y.dims[-1:]) if len(y.dims) > 1 else (x.dims[-2:-1], ())
    lead = call.shape[: len(call.shape) - len(rows) - len(columns)]
    dims = (*over(x.dims[:-2], y.dims[:-2], lead), *rows, *columns)
    carrier = x if x.axes() else y
    if tuple(map(dim_size, dims)) == call.shape:
        return Value("data", dims, offsets=carrier.offsets, touched=touched)
    return Value("data", tuple(fresh_dim(size) for size in call.shape), touched=touched)


def _meet_summed(call: Call, weight: Value, uses: Sequence[str], data: Any) -> None:
    """A weight meets what it is summed with. A table that ones and noughts are multiplied with is looked up."""
    if len(uses) > 1 and chooses(call, data) == "hard":
        uses = ["index" if use == "in" else use for use in uses]
        call.meet(weight, list(uses), "lookup", data)  # type: ignore[arg-type]  # literals
    else:
        call.meet(weight, list(uses), "contract", data)  # type: ignore[arg-type]  # literals


def _made(call: Call, data: Value, weight: Value, node: Any, summed: int) -> tuple[Made, ...]:
    """What a product is as a weight: a constant times a weight, or a mixture of matrices by what chooses them."""
    if data.kind == "constant":
        return call.stack(_weight_product(call, *((data, weight) if summed == -2 else (weight, data))), "built")
    kept = weight.dims[-3 - summed] if len(weight.dims) == 2 else ()
    if len({run.axis for factor in kept for run in factor.runs}) < 2 or not chooses(call, node):
        return ()
    dims = tuple(kept if dim_size(kept) == size else fresh_dim(size) for size in call.shape)
    return call.stack(replace(weight, dims=dims, inner=(*weight.inner, *mixed(weight.dims[summed]))))


def _result(call: Call, batch: Value, blocks: tuple[Dim, ...], tail: tuple[Dim, ...], weight: Value) -> Value:
    """The activation's batch dimensions, where a weight's blocks lie over them, then the matrix dimensions."""
    lead = len(call.shape) - len(tail)
    dims: list[Dim] = []
    for place in range(lead):
        own = place - (lead - len(blocks))
        other = place - (lead - len(batch.dims))
        dim = batch.dims[other] if other >= 0 else ()
        if own >= 0 and dim_size(blocks[own]) == call.shape[place] and call.shape[place] > 1:
            dim = overlaid([result_dim(blocks[own]), *([dim] if has_runs(dim) else [])], call.shape[place])
        dims.append(dim if dim_size(dim) == call.shape[place] else fresh_dim(call.shape[place]))
    offsets = {**batch.offsets, **weight.offsets}
    value = Value("data", (*dims, *tail), offsets=offsets, spread=weight.spread, touched=True)
    return value if value.shape == call.shape else value.spread_out(call.shape)


def _weight_product(call: Call, a: Value, b: Value) -> Value:
    """Two weights multiplied, as in W + B A: the axis summed is fan-in of the left one and fan-out of the right one.

    With a vector it is a weighted sum over an axis (a singular value), which is summed as any other sum.
    """
    offsets = {**a.offsets, **b.offsets}
    names = a.parameters | b.parameters
    lost = a.lost or b.lost
    via = tuple(dict.fromkeys((*a.via, *b.via)))
    if len(a.dims) < 2 or len(b.dims) < 2:
        kept = (*a.dims[:-1], *b.dims[1:]) if len(b.dims) < 2 else b.dims[1:]
        inner = [*a.inner, *b.inner, *mixed(a.dims[-1]), *mixed(b.dims[-2 if len(b.dims) > 1 else 0])]
        return Value("weight", kept, names, offsets, inner=tuple(inner), via=via, lost=lost)
    if len(a.dims) != len(b.dims):
        dims = tuple(fresh_dim(size) for size in call.shape)
        return Value("weight", dims, names, lost=lost or call.name)
    inner = [*a.inner, *b.inner]
    bond = call.node.name
    inner += [Inner(run.axis, "in", run.size, bond=bond) for factor in a.dims[-1] for run in factor.runs]
    inner += [Inner(run.axis, "out", run.size, bond=bond) for factor in b.dims[-2] for run in factor.runs]
    batch = [overlaid([d for d in pair if dim_size(d) == n], n)
             for n, *pair in zip(call.shape, a.dims[:-2], b.dims[:-2], strict=False)]  # fmt: skip
    dims = (*batch, a.dims[-2], b.dims[-1])
    return Value("weight", dims, names, offsets, inner=tuple(inner), via=via, lost=lost)


@rule("aten.matmul", "aten.mm", "aten.bmm", "aten.mv", "aten.dot", "aten.vdot", "aten._sparse_mm")
def matmul(call: Call) -> Result:
    left, right = call.node.args[:2]
    return product(call, left, right)


@rule("aten.addmm", "aten.baddbmm", "aten.addbmm", "aten.addmv")
def addmm(call: Call) -> Result:
    added, left, right = call.node.args[:3]
    value = product(call, left, right)
    if value.kind == "weight":
        return value
    base = call.value(added)
    if base.kind == "weight":
        meet_elementwise(call.named("aten.add"), base, value, call.node, call.shape)
        return value
    if base.kind == "data":
        call.consume(added, 2)
        return Value("data", tuple(plain(dim) for dim in value.dims), touched=True)
    return value


@rule("aten.linear", "aten._linear")
def linear(call: Call) -> Result:
    data, weight = call["input"], call["weight"]
    w = call.value(weight)
    x = call.data(data, 0)
    (x,) = still([call.value(data)], [x], [(-1,)])
    if w.kind != "weight":
        if w.kind == "data":
            call.consume(weight, 1)
        tail: tuple[Dim, ...] = (fresh_dim(call.shape[-1], w.kind == "data" or x.touched),) if len(w.dims) > 1 else ()
        made = Value(
            "data" if w.kind == "data" else x.kind,
            (*x.dims[:-1], *tail),
            offsets=x.offsets,
            touched=x.touched or w.kind == "data",
        )
        return add_bias(call, call["bias"], made)
    _meet_summed(call, w, ["out", "in"] if len(w.dims) > 1 else ["in"], data)
    tail = (result_dim(w.dims[0]),) if len(w.dims) > 1 else ()
    mixture = _made(call, x, w, data, -1) if call["bias"] is None else ()
    result = Value(
        "data", (*x.dims[:-1], *tail), offsets={**x.offsets, **w.offsets}, spread=w.spread, touched=True, made=mixture
    )
    return add_bias(call, call["bias"], result)


def add_bias(call: Call, bias: Any, result: Value) -> Value:
    """A bias operand of a larger op, added along the result's feature axis."""
    value = call.value(bias)
    if bias is not None and value.kind == "weight":
        meet_elementwise(call.named("aten.add"), value, result, call.node, result.shape)
    return result


@rule("aten.bilinear")
def bilinear(call: Call) -> Result:
    w = call.value(call["weight"])
    call.data(call["input1"], 0)
    call.data(call["input2"], 1)
    call.meet(w, ["out", "in", "in"], "contract", call["input1"])
    lead = tuple(fresh_dim(size) for size in call.shape[:-1])
    result = Value("data", (*lead, as_feature(w.dims[0])), touched=True)
    return add_bias(call, call["bias"], result)


@rule("aten._grouped_mm", "aten.grouped_mm")
def grouped_mm(call: Call) -> Result:
    data, weight = call.node.args[:2]
    x, w = call.data(data, 0), call.value(weight)
    if w.kind != "weight" or len(w.dims) != 3:
        return Value("data", tuple(fresh_dim(size) for size in call.shape), touched=True)
    call.meet(w, ["block", "in", "out"], "contract", data)
    result = Value("data", (*x.dims[:-1], as_feature(w.dims[2])), offsets=w.offsets, spread=w.spread, touched=True)
    return add_bias(call, call["bias"], result) if result.shape == call.shape else result.spread_out(call.shape, True)
