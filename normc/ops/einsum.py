"""Products that an equation of letters describes: einsum, tensordot, inner products and distances of all rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from normc.ops.call import Call, Result, rule
from normc.ops.letters import Term, contracted
from normc.ops.lookup import picked_dims
from normc.ops.overlay import overlaid
from normc.ops.value import Dim, Inner, Value, fresh_dim, unknown
from normc.ops.views import place


@rule("aten.einsum")
def einsum(call: Call) -> Result:
    equation, operands = call.node.args[:2]
    assert isinstance(equation, str) and isinstance(operands, (list, tuple))
    terms, output = _letters(equation, [len(call.value(node).dims) for node in operands])
    return product(call, list(operands), terms, output)


@rule("aten.tensordot")
def tensordot(call: Call) -> Result:
    left, right = call.first(), call["other"]
    ranks = len(call.value(left).dims), len(call.value(right).dims)
    first = _alphabet(ranks[0])
    second = _alphabet(ranks[1], ranks[0])
    places = [[place(int(i), rank) for i in call[name]]
              for name, rank in zip(("dims_self", "dims_other"), ranks, strict=True)]  # fmt: skip
    for mine, others in zip(*places, strict=True):
        second[others] = first[mine]
    kept = [letter for letter in (*first, *second) if not (letter in first and letter in second)]
    return product(call, [left, right], ["".join(first), "".join(second)], "".join(kept))


@rule("aten.inner", "aten.cdist", "aten._cdist_forward", "aten._euclidean_dist")
def rows(call: Call) -> Result:
    """Each row of the first operand with each of the second: their inner product, or their distance."""
    left, right = call.node.args[:2]
    ranks = [len(call.value(node).dims) for node in (left, right)]
    if call.name == "aten.inner":
        first, second = _alphabet(ranks[0]), _alphabet(ranks[1], ranks[0])
        second[-1:] = first[-1:] if second else []
        return product(call, [left, right], ["".join(first), "".join(second)], "".join((*first[:-1], *second[:-1])))
    batch = _alphabet(max(ranks) - 2, 3)
    terms = ["".join((*batch[len(batch) - rank + 2 :], row, "c")) for rank, row in zip(ranks, "ab", strict=True)]
    return product(call, [left, right], terms, "".join((*batch, "a", "b")))


@rule("aten.linalg_multi_dot", "aten.chain_matmul")
def chain(call: Call) -> Result:
    operands = list(call.first())
    letters = _alphabet(len(operands) + 1)
    terms = [letters[slot] + letters[slot + 1] for slot in range(len(operands))]
    if len(call.value(operands[0]).dims) == 1:
        terms[0] = letters[1]
    if len(call.value(operands[-1]).dims) == 1:
        terms[-1] = letters[-2]
    ends = [letter for letter in (letters[0], letters[-1]) if any(letter in term for term in terms)]
    return product(call, operands, terms, "".join(ends))


def _alphabet(count: int, after: int = 0) -> list[str]:
    """So many letters."""
    return [chr(code) for code in range(ord("a") + after, ord("a") + after + count)]


def product(call: Call, operands: Sequence[Any], terms: Sequence[str], output: str) -> Value:
    """A sum over products: of constants, of weights among themselves, or with an activation."""
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
    return contracted(call, [Term(*term) for term in zip(operands, values, terms, strict=True)], output)


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


def _einsum_of_weights(call: Call, values: list[Value], terms: Sequence[str], output: str) -> Value:
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
    call: Call, values: list[Value], terms: Sequence[str], output: str, summed: list[str], left: int
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
