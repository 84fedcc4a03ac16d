"""Products that sum over an axis: linear, the matmul family, einsum. What is summed with an activation is fan-in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from normc.ops.call import Call, Result, rule
from normc.ops.elementwise import meet_elementwise
from normc.ops.value import Dim, Inner, Value, as_feature, dim_size, fresh_dim, plain
from normc.plans.row import AxisUse


def product(call: Call, left: Any, right: Any) -> Value:
    """left [..., i, k] @ right [..., k, j], either of which may be a weight, a constant or an activation.

    A constant (a table of sines) that a weight is multiplied with stands where an activation would.
    """
    a, b = call.value(left), call.value(right)
    if a.kind == "weight" and b.kind == "weight":
        return _weight_product(call, a, b)
    if b.kind == "weight":
        x = call.data(left, 0)
        uses = ["block"] * (len(b.dims) - 2) + (["in", "out"] if len(b.dims) > 1 else ["in"])
        call.meet(b, _uses(uses), "contract", left)
        out: tuple[Dim, ...] = (as_feature(b.dims[-1]),) if len(b.dims) > 1 else ()
        return _result(call, x.dims[:-2], b.dims[:-2], (*x.dims[-2:-1], *out), b)
    if a.kind == "weight":
        x = call.data(right, 1)
        uses = ["block"] * (len(a.dims) - 2) + (["out", "in"] if len(a.dims) > 1 else ["in"])
        call.meet(a, _uses(uses), "contract", right)
        out = (as_feature(a.dims[-2]),) if len(a.dims) > 1 else ()
        tail = x.dims[-1:] if len(x.dims) > 1 else ()
        return _result(call, x.dims[:-2], a.dims[:-2], (*out, *tail), a)
    for operand, value in ((left, a), (right, b)):
        call.separate(operand, range(len(value.dims) - 2))
    x, y = call.data(left, 0), call.data(right, 1)
    touched = x.touched or y.touched
    dims = (*x.dims[:-1], *y.dims[-1:]) if len(y.dims) > 1 and len(x.dims) == len(call.shape) else ()
    if tuple(dim_size(dim) for dim in dims) == call.shape:
        return Value("data", dims, touched=touched)
    return Value("data", tuple(fresh_dim(size) for size in call.shape), touched=touched)


def _uses(uses: Sequence[str]) -> list[AxisUse]:
    return list(uses)  # type: ignore[arg-type]  # the literals above


def _result(call: Call, batch: tuple[Dim, ...], blocks: tuple[Dim, ...], tail: tuple[Dim, ...], weight: Value) -> Value:
    """The activation's batch dimensions, where a weight's blocks lie over them, then the matrix dimensions."""
    lead = len(call.shape) - len(tail)
    dims: list[Dim] = []
    for place in range(lead):
        own = place - (lead - len(blocks))
        other = place - (lead - len(batch))
        dim = batch[other] if other >= 0 else ()
        if own >= 0 and dim_size(blocks[own]) == call.shape[place] and call.shape[place] > 1:
            dim = as_feature(blocks[own])
        dims.append(dim if dim_size(dim) == call.shape[place] else fresh_dim(call.shape[place]))
    value = Value("data", (*dims, *tail), offsets=weight.offsets, spread=weight.spread, touched=True)
    return value if value.shape == call.shape else value.spread_out(call.shape)


def _weight_product(call: Call, a: Value, b: Value) -> Value:
    """Two weights multiplied, as in W + B A: the axis summed is fan-in of the left one and fan-out of the right one."""
    if len(a.dims) != 2 or len(b.dims) != 2:
        lost = a.lost or b.lost or call.name
        dims = tuple(fresh_dim(size) for size in call.shape)
        return Value("weight", dims, a.parameters | b.parameters, lost=lost)
    inner = [*a.inner, *b.inner]
    inner += [Inner(run.axis, "in", run.size) for factor in a.dims[1] for run in factor.runs]
    inner += [Inner(run.axis, "out", run.size) for factor in b.dims[0] for run in factor.runs]
    offsets = {**a.offsets, **b.offsets}
    names = a.parameters | b.parameters
    return Value("weight", (a.dims[0], b.dims[1]), names, offsets, inner=tuple(inner), via=(*a.via, *b.via))


@rule("aten.matmul", "aten.mm", "aten.bmm", "aten.mv", "aten.dot", "aten.inner", "aten.vdot")
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
        meet_elementwise(replace_name(call, "aten.add"), base, value, call.node, call.shape)
        return value
    if base.kind == "data":
        call.consume(added, 2)
        return Value("data", tuple(plain(dim) for dim in value.dims), touched=True)
    return value


def replace_name(call: Call, name: str) -> Call:
    """The call seen as the sum or product that it holds inside."""
    seen = object.__new__(Call)
    seen.__dict__.update(call.__dict__)
    seen.name = name
    return seen


@rule("aten.linear", "aten._linear")
def linear(call: Call) -> Result:
    data, weight = call["input"], call["weight"]
    w = call.value(weight)
    x = call.data(data, 0)
    if w.kind == "data":
        call.consume(weight, 1)
        return Value("data", tuple(fresh_dim(size) for size in call.shape), touched=True)
    if w.kind == "constant":
        return Value(x.kind, tuple(fresh_dim(size) for size in call.shape), touched=x.touched)
    call.meet(w, ["out", "in"] if len(w.dims) > 1 else ["in"], "contract", data)
    tail: tuple[Dim, ...] = (as_feature(w.dims[0]),) if len(w.dims) > 1 else ()
    result = Value("data", (*x.dims[:-1], *tail), offsets=w.offsets, spread=w.spread, touched=True)
    return add_bias(call, call["bias"], result)


def add_bias(call: Call, bias: Any, result: Value) -> Value:
    """A bias operand of a larger op, added along the result's feature axis."""
    value = call.value(bias)
    if bias is not None and value.kind == "weight":
        meet_elementwise(replace_name(call, "aten.add"), value, result, call.node, result.shape)
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


@rule("aten.einsum")
def einsum(call: Call) -> Result:
    equation, operands = call.node.args[:2]
    assert isinstance(equation, str) and isinstance(operands, (list, tuple))
    terms, output = _letters(equation, [len(call.value(node).dims) for node in operands])
    values = [call.value(node) for node in operands]
    if all(value.kind == "weight" for value in values) or all(value.kind == "constant" for value in values):
        return _einsum_of_weights(call, values)
    seen: dict[str, Dim] = {}
    weights: list[Value] = []
    data_node = next(node for node, value in zip(operands, values, strict=True) if value.kind != "weight")
    for slot, (node, value, letters) in enumerate(zip(operands, values, terms, strict=True)):
        others = set("".join(term for i, term in enumerate(terms) if i != slot))
        if value.kind == "weight":
            call.meet(value, [_letter_use(letter, output, others) for letter in letters], "contract", data_node)
            weights.append(value)
            seen.update({letter: as_feature(dim) for letter, dim in zip(letters, value.dims, strict=True)})
        else:
            rest = "".join(term for i, term in enumerate(terms) if i != slot and values[i].kind == "data")
            call.separate(node, [place for place, letter in enumerate(letters) if letter in rest and letter in output])
            x = call.data(node, slot)
            for letter, dim in zip(letters, x.dims, strict=True):
                seen.setdefault(letter, dim)
    offsets = {axis: offset for weight in weights for axis, offset in weight.offsets.items()}
    touched = bool(weights) or any(value.touched for value in values)
    result = Value("data", tuple(seen.get(letter, ()) for letter in output), offsets=offsets, touched=touched)
    return result if result.shape == call.shape else result.spread_out(call.shape, feature=True)


def _letter_use(letter: str, output: str, others: set[str]) -> AxisUse:
    if letter not in output:
        return "in"
    return "block" if letter in others else "out"


def _letters(equation: str, ranks: list[int]) -> tuple[list[str], str]:
    """Every operand's letters and the output's, an ellipsis spelled out in capitals that the equation doesn't use."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    spare = [chr(code) for code in range(0x410, 0x44F)]
    widths = [rank - len(term.replace("...", "")) for term, rank in zip(terms, ranks, strict=True)]
    widest = max((w for w, term in zip(widths, terms, strict=True) if "..." in term), default=0)
    terms = [
        term.replace("...", "".join(spare[widest - width : widest])) for term, width in zip(terms, widths, strict=True)
    ]
    if not arrow:
        counts = "".join(terms)
        right = "".join(sorted(letter for letter in set(counts) if counts.count(letter) == 1 and letter not in spare))
        right = "".join(spare[:widest]) + right
    return terms, right.replace("...", "".join(spare[:widest]))


def _einsum_of_weights(call: Call, values: list[Value]) -> Value:
    if all(value.kind == "constant" for value in values):
        return Value("constant", tuple(fresh_dim(size) for size in call.shape))
    names = frozenset().union(*(value.parameters for value in values))
    whole = next(value for value in values if value.kind == "weight")
    lost = replace(whole, dims=tuple(fresh_dim(size) for size in call.shape), parameters=names, offsets={}, spread={})
    return replace(lost, lost=call.name)
