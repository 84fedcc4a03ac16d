"""Einsum: a letter is what it is in the equation. Summed it is fan-in, shared and kept a block, else fan-out."""

from __future__ import annotations

from typing import Any, Literal

from normc.ops.call import Call, Result, rule
from normc.ops.lookup import picked_dims
from normc.ops.overlay import overlaid
from normc.ops.value import Dim, Inner, Value, as_feature, fresh_dim, unknown
from normc.plans.row import AxisUse


@rule("aten.einsum")
def einsum(call: Call) -> Result:
    equation, operands = call.node.args[:2]
    assert isinstance(equation, str) and isinstance(operands, (list, tuple))
    terms, output = _letters(equation, [len(call.value(node).dims) for node in operands])
    values = [call.value(node) for node in operands]
    if all(value.kind == "constant" for value in values):
        return Value("constant", tuple(fresh_dim(size) for size in call.shape))
    if len(values) == 2 and {values[0].kind, values[1].kind} == {"weight", "constant"}:
        at = 0 if values[0].kind == "weight" else 1
        looked_up = _one_hot(values[at], terms[at], operands[1 - at], terms[1 - at], output)
        if looked_up is not None and looked_up.shape == call.shape:
            return looked_up
    if all(value.kind == "weight" for value in values):
        if len({value.expanded() for value in values}) == 1:
            return _einsum_of_weights(call, values, terms, output)
        values = [unknown("data", value.shape) if value.expanded() else value for value in values]
    seen: dict[str, Dim] = {}
    weights: list[Value] = []
    far = _distances(terms, values)
    data_node = next(node for node, value in zip(operands, values, strict=True) if value.kind != "weight")
    for slot, (node, value, letters) in enumerate(zip(operands, values, terms, strict=True)):
        others = set("".join(term for i, term in enumerate(terms) if i != slot))
        if value.kind == "weight":
            uses = [_letter_use(letter, output, others, slot, terms, far) for letter in letters]
            call.meet(value, uses, "contract", data_node)
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


def _one_hot(weight: Value, own: str, node: Any, other: str, output: str) -> Value | None:
    """A weight summed with a constant of ones and noughts, at most one 1 in each row: a lookup, and still a weight."""
    concrete = node.meta.get("concrete")
    summed = [letter for letter in own if letter in other and letter not in output]
    fresh = [letter for letter in other if letter not in own]
    if concrete is None or len(summed) != 1 or len(fresh) != len(other) - 1 or not set(own + other) >= set(output):
        return None
    if not (((concrete == 0) | (concrete == 1)).all() and (concrete.sum(other.index(summed[0])) <= 1).all()):
        return None
    sizes = [concrete.shape[other.index(letter)] for letter in fresh]
    dims = dict(zip(own, weight.dims, strict=True))
    dims |= dict(zip(fresh, picked_dims(dims[summed[0]], tuple(sizes), "index"), strict=True))
    return weight.with_dims(dims[letter] for letter in output)


def _letter_use(
    letter: str, output: str, others: set[str], slot: int, terms: list[str], far: dict[int, int]
) -> AxisUse:
    """A letter that is summed between two weights is fan-out of the one nearer to the activation."""
    if letter in output:
        return "block" if letter in others else "out"
    sharing = [other for other, term in enumerate(terms) if other != slot and letter in term]
    return "out" if sharing and all(far[other] > far[slot] for other in sharing) else "in"


def _distances(terms: list[str], values: list[Value]) -> dict[int, int]:
    """How many weights lie between each operand and an activation: 0 for an activation itself."""
    far = {slot: 0 if value.kind != "weight" else len(terms) for slot, value in enumerate(values)}
    for _ in terms:
        for slot, value in enumerate(values):
            near = [far[other] for other, term in enumerate(terms) if other != slot and set(term) & set(terms[slot])]
            if value.kind == "weight" and near:
                far[slot] = min(far[slot], 1 + min(near))
    return far


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


def _einsum_of_weights(call: Call, values: list[Value], terms: list[str], output: str) -> Value:
    """A product of two weights, if that is all it is; else the axes are lost."""
    names = frozenset().union(*(value.parameters for value in values))
    if len(terms) == 2 and all(len(set(term)) == len(term) for term in terms):
        own = [[letter for letter in output if letter in term and letter not in other]
               for term, other in (terms, terms[::-1])]  # fmt: skip
        summed = [letter for letter in terms[0] if letter not in output]
        if all(own) and set(summed) == set(terms[1]) - set(output):
            first = output.index(own[0][0]) > output.index(own[1][0])
            return _letter_product(call, values, terms, output, summed, first)
    lost = next((value.lost for value in values if value.lost), "") or call.name
    dims = tuple(fresh_dim(size) for size in call.shape)
    return Value("weight", dims, names, lost=lost)


def _letter_product(
    call: Call, values: list[Value], terms: list[str], output: str, summed: list[str], left: int
) -> Value:
    """Operand `left` holds the result's first own axis: what is summed is its fan-in, and the other one's fan-out."""
    inner = [i for value in values for i in value.inner]
    dims: dict[str, list[Dim]] = {}
    for slot, (value, term) in enumerate(zip(values, terms, strict=True)):
        for letter, dim in zip(term, value.dims, strict=True):
            dims.setdefault(letter, []).append(dim)
            if letter in summed:
                use: Literal["in", "out"] = "in" if slot == left else "out"
                inner += [Inner(run.axis, use, run.size) for factor in dim for run in factor.runs]
    return Value(
        "weight",
        tuple(overlaid(dims[letter], size) for letter, size in zip(output, call.shape, strict=True)),
        frozenset().union(*(value.parameters for value in values)),
        {axis: offset for value in values for axis, offset in value.offsets.items()},
        inner=tuple(inner),
        via=tuple(dict.fromkeys(step for value in values for step in value.via)),
        lost=next((value.lost for value in values if value.lost), ""),
    )
