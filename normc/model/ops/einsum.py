"""Products that an equation of letters describes: einsum, tensordot, inner products and distances of all rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from normc.model.ops.call import Call, Result, rule
from normc.model.ops.letters import Term, contracted
from normc.model.ops.lookup import picked_dims
from normc.model.ops.overlay import overlaid
from normc.model.ops.value import Dim, Inner, Value, dim_size, fresh_dim, has_sources, mixed, unknown
from normc.model.ops.views import place


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


@rule("aten.linalg_vecdot", "aten.cosine_similarity", "aten.pairwise_distance")
def along(call: Call) -> Result:
    """Inner products, cosines or distances of two operands along one dimension, which lie over each other otherwise."""
    operands = list(call.node.args[:2])
    ranks = [len(call.value(node).dims) for node in operands]
    letters = _alphabet(max(ranks))
    summed = letters[place(-1 if call.name == "aten.pairwise_distance" else int(call["dim"]), len(letters))]
    terms = ["".join(letters[len(letters) - rank :]) for rank in ranks]
    kept = "Z" if call["keepdim"] else ""
    return product(call, operands, terms, "".join(kept if letter == summed else letter for letter in letters))


@rule("aten.outer", "aten.ger")
def outer(call: Call) -> Result:
    left, right = call.node.args[:2]
    return product(call, [left, right], ["a", "b"], "ab")


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
    if not call.node.meta.get("grad", True) and not any(v.kind == "data" or has_sources(v) for v in values):
        return _of_weights(call, values, terms, output)  # one round of a power iteration
    if len(values) == 2 and {values[0].kind, values[1].kind} == {"weight", "constant"}:
        at = 0 if values[0].kind == "weight" else 1
        looked_up = _one_hot(values[at], terms[at], operands[1 - at], terms[1 - at], output)
        if looked_up is not None and looked_up.shape == call.shape:
            return looked_up
    if all(value.kind == "weight" and not has_sources(value) for value in values):
        if len({value.expanded() for value in values}) == 1:
            return _of_weights(call, values, terms, output)
        values = [unknown("data", value.shape) if value.expanded() else value for value in values]
    result = contracted(call, [Term(*term) for term in zip(operands, values, terms, strict=True)], output)
    if any(value.kind == "data" or has_sources(value) for value in values) or result.kind == "weight":
        return result
    return replace(result, made=call.stack(_of_weights(call, values, terms, output), "built"))


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


def _of_weights(call: Call, values: list[Value], terms: Sequence[str], output: str) -> Value:
    """A product of weights and constants. Of two that bring an axis each, what is summed is fan-in of the first and
    fan-out of the other; what a vector of coefficients or a sum alone takes together is mixed.
    """
    weights = [value for value in values if value.kind == "weight"]
    own = [[output.index(letter) for letter in term if letter in output and sum(letter in t for t in terms) == 1]
           for term in terms]  # fmt: skip
    inner = [i for value in values for i in value.inner]
    dims: dict[str, list[Dim]] = {}
    for slot, (value, term) in enumerate(zip(values, terms, strict=True)):
        for letter, dim in zip(term, value.dims, strict=True):
            dims.setdefault(letter, []).append(dim)
            owning = [other for other, letters in enumerate(terms) if letter in letters and own[other]]
            if letter not in output and len(owning) > 1:
                first = min(owning, key=lambda other: own[other])
                use: Literal["in", "out"] = "in" if slot == first or slot not in owning else "out"
                inner += [Inner(run.axis, use, run.size, bond=call.node.name) for factor in dim for run in factor.runs]
            elif letter not in output:
                inner += mixed(dim)
    lost = "" if all(len(set(term)) == len(term) for term in terms) else call.name
    return Value(
        "weight",
        tuple(overlaid([d for d in dims.get(letter, ()) if dim_size(d) == size], size)
              for letter, size in zip(output, call.shape, strict=True)),
        frozenset().union(*(value.parameters for value in weights)),
        {axis: offset for value in weights for axis, offset in value.offsets.items()},
        {axis: spans for value in weights for axis, spans in value.spread.items()},
        inner=tuple(inner),
        via=tuple(dict.fromkeys(step for value in weights for step in value.via)),
        lost=next((value.lost for value in weights if value.lost), lost),
    )  # fmt: skip
