"""Products written in letters: what a letter is to the operands says what a weight's axis does.

A letter that is summed with an activation is fan-in, one that the weight alone brings to the result is fan-out, and one
that an activation shares and keeps is a block. Where nothing of a weight is summed, it is a gain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from torch import fx

from normc.model.ops.call import Call, ContactKind
from normc.model.ops.choosing import chooses
from normc.model.ops.elementwise import combined
from normc.model.ops.kept import has_runs, still
from normc.model.ops.meeting import meet_elementwise
from normc.model.ops.overlay import overlaid
from normc.model.ops.value import Dim, Made, Value, dim_size, fresh_dim, is_feature, is_source, mixed, result_dim
from normc.plans.row import AxisUse


class Term(NamedTuple):
    """An operand and its letters, one a dimension."""

    node: fx.Node
    value: Value
    letters: str


@dataclass(frozen=True)
class Product:
    """A sum over products of `terms`; letters of `output` aren't summed."""

    call: Call
    terms: tuple[Term, ...]
    output: str

    @cached_property
    def weights(self) -> tuple[int, ...]:
        """Places of the weights."""
        return tuple(slot for slot, term in enumerate(self.terms) if term.value.kind == "weight")

    @cached_property
    def _activations(self) -> dict[str, frozenset[int | str]]:
        """The activations that run along each letter."""
        found: dict[str, set[int | str]] = {}
        for slot, (_, value, letters) in enumerate(self.terms):
            for letter, dim in zip(letters, value.dims, strict=True):
                within = {run.axis.parameter for factor in dim for run in factor.runs if is_source(run.axis)}
                found.setdefault(letter, set()).update({slot} if value.kind != "weight" and dim else within)
        return {letter: frozenset(sources) for letter, sources in found.items()}

    def sources(self, letter: str) -> frozenset[int | str]:
        """The activations that run along a letter: their places, or the names of those within a weight."""
        return self._activations.get(letter, frozenset())

    def shared(self, slot: int, letter: str) -> list[int]:
        """The other weights that have a letter."""
        return [other for other in self.weights if other != slot and letter in self.terms[other].letters]

    @cached_property
    def _steps(self) -> dict[int, int]:
        """How many weights lie between each weight and an activation that it is summed with, or shares an axis with."""
        far = {slot: len(self.terms) + 1 for slot in self.weights}
        for slot in self.weights:
            letters = [letter for letter in self.terms[slot].letters if self.sources(letter)]
            if letters:
                far[slot] = int(all(letter in self.output for letter in letters))
        for _ in self.weights:
            for slot in self.weights:
                near = [far[other] for letter in self.terms[slot].letters if letter not in self.output
                        for other in self.shared(slot, letter)]  # fmt: skip
                far[slot] = min([far[slot], *(1 + step for step in near)])
        return far

    def _leaves(self, slot: int, letter: str, other_way_out: bool) -> bool:
        """Whether a letter that is summed between weights is fan-out of this one: it lies nearer to an activation.

        Of two that lie equally near, the first one's; of both, if the second has no other fan-out.
        """
        steps, others = self._steps, self.shared(slot, letter)
        if any(steps[other] != steps[slot] for other in others):
            return all(steps[other] >= steps[slot] for other in others)
        return all(slot < other for other in others) or not other_way_out

    def uses(self, slot: int) -> tuple[ContactKind, list[AxisUse]]:
        """How a weight meets the activations, and what its dimensions do."""
        letters = self.terms[slot].letters
        summed = [letter for letter in letters if letter not in self.output]
        direct = [letter for letter in summed if self.sources(letter)]
        near = frozenset[int | str]().union(*(self.sources(letter) for letter in direct))
        found: dict[str, AxisUse] = {}
        for letter in letters:
            if letter in self.output:
                found[letter] = "block" if self.sources(letter) or self.shared(slot, letter) else "out"
            else:
                found[letter] = "in" if letter in direct else "block"
        # An activation that isn't summed with this weight multiplies its result.
        gates = [letter for letter in letters if letter in self.output and not self.sources(letter) & near]
        for letter in (letter for letter in summed if letter not in direct and self.shared(slot, letter)):
            found[letter] = "out" if self._leaves(slot, letter, bool(gates)) else "in"
        return self._settled(slot, found, gates)

    def _settled(self, slot: int, found: dict[str, AxisUse], gates: list[str]) -> tuple[ContactKind, list[AxisUse]]:
        """The same, where a choice takes part or no letter is fan-out yet."""
        term = self.terms[slot]
        picked = {letter for letter, dim in zip(term.letters, term.value.dims, strict=True)
                  if dim and all(factor.picked for factor in dim)}  # fmt: skip
        ins = [letter for letter, use in found.items() if use == "in" and letter not in picked]
        outs = [letter for letter, use in found.items() if use == "out" and letter not in picked]
        gates = [letter for letter in gates if letter not in picked]
        kinds = {letter: self._chooses(letter) for letter in ins}
        rest = [letter for letter in ins if not kinds[letter]]
        if rest and (outs or gates):
            found |= {letter: "block" for letter in ins if kinds[letter]}
            ins = rest
        elif not rest and "hard" in kinds.values() and len(ins) == 1:
            return "lookup", ["index" if letter in ins else found[letter] for letter in term.letters]
        kind: ContactKind = "contract" if ins or "in" in found.values() else "gain"
        if ins and not outs:
            kind = self._without_result(slot, found, ins, gates)
        return kind, [found[letter] for letter in term.letters]

    def host(self, slot: int, uses: Sequence[AxisUse]) -> fx.Node | None:
        """The activation that a weight is summed with; of several, one that weights have made."""
        summed = {letter for letter, use in zip(self.terms[slot].letters, uses, strict=True) if use == "in"}
        data = [term for term in self.terms if term.value.kind != "weight"]
        summing = [term for term in data if summed & set(term.letters)] or data
        return max(summing, key=lambda term: term.value.touched).node if summing else self.call.host

    def _chooses(self, letter: str) -> str:
        """How all that a letter is summed with chooses; nothing if some of it is any other activation."""
        kinds = {chooses(self.call, self.terms[slot].node) if isinstance(slot, int) else ""
                 for slot in self.sources(letter)}  # fmt: skip
        return "" if not kinds or "" in kinds else "hard" if "hard" in kinds else "soft"

    def _without_result(self, slot: int, found: dict[str, AxisUse], ins: list[str], gates: list[str]) -> ContactKind:
        """What a weight is that brings no letter of its own to the result."""
        partners = {
            letter: self.sources(letter) or {-1 - other for other in self.shared(slot, letter)} for letter in ins
        }
        others = [letter for letter in ins if not partners[letter] & partners[ins[0]]]
        if gates:
            found[gates[-1]] = "out"
        elif others:  # x' W y, as (x W) . y
            found |= dict.fromkeys(others, "out")
        elif all(len(self.sources(letter)) + len(self.shared(slot, letter)) > 1 for letter in ins):  # (x * w) . y
            found |= dict.fromkeys(found, "out")
            return "gain"
        elif not any(self._is_feature(letter) for letter in ins):  # shares of places, of layers
            found |= {letter: "index" if letter in ins else "out" for letter in found}
            return "gain"
        return "contract"

    def _is_feature(self, letter: str) -> bool:
        """Whether an activation's features lie along a letter, or it isn't known where they lie."""
        for slot, (_, value, letters) in enumerate(self.terms):
            features = [is_feature(dim) for dim in value.dims]
            if slot in self.sources(letter) and (features[letters.index(letter)] or not any(features)):
                return True
            if value.kind == "weight" and letter in letters and features[letters.index(letter)]:
                return True
        return not self.sources(letter)

    def mix(self) -> None:
        """Of two activations, one that chooses mixes what the other has along the letters that are summed."""
        if self.weights or len(self.terms) != 2:
            return
        for chosen, other in (self.terms, self.terms[::-1]):
            summed = [
                i for i, letter in enumerate(other.letters) if letter in chosen.letters and letter not in self.output
            ]
            if any(factor.runs for i in summed for factor in other.value.dims[i]) and chooses(self.call, chosen.node):
                for i in summed:
                    self.call.mix(other.value.dims[i])

    def mixes(self, slot: int, uses: Sequence[AxisUse]) -> bool:
        """Whether choices alone, or entries that were picked, meet a weight that has two axes beside those summed."""
        term = self.terms[slot]
        summed = [i for i, letter in enumerate(term.letters) if letter not in self.output]
        rest = {run.axis for i, dim in enumerate(term.value.dims) if i not in summed for factor in dim
                for run in factor.runs if not factor.picked and not is_source(run.axis)}  # fmt: skip
        if not summed or len(rest) < 2 or len(self.weights) > 1:
            return False
        picked = all(factor.picked for i in summed for factor in term.value.dims[i])
        return picked or all(chooses(self.call, other.node) for other in self.terms if other is not term)


def contracted(call: Call, terms: Sequence[Term], output: str) -> Value:
    """The sum over products of `terms`, at least one of them no weight: what every weight among them does."""
    product = Product(call, tuple(terms), output)
    if all(letter in output for term in terms for letter in term.letters):
        return _entry_by_entry(call, product)
    seen: dict[str, Dim] = {}
    ended: list[Value] = []
    product.mix()
    for slot, (node, value, letters) in enumerate(terms):
        if value.kind == "weight":
            continue
        rest = "".join(t.letters for i, t in enumerate(terms) if i != slot and t.value.kind == "data")
        shared = [place for place, letter in enumerate(letters) if letter in rest and letter in output]
        call.separate(node, shared, [place for place, letter in enumerate(letters) if letter not in output])
        ended.append(call.data(node, slot))
    data = [term for term in terms if term.value.kind != "weight"]
    summed = [[i for i, letter in enumerate(term.letters) if letter not in output] for term in data]
    kept = still([term.value for term in data], ended, summed)
    for term, value in zip(data, kept, strict=True):
        for letter, dim in zip(term.letters, value.dims, strict=True):
            seen[letter] = dim if has_runs(dim) else seen.get(letter, dim)
    features = Value("data", tuple(seen.get(letter, ()) for letter in output), touched=True)
    outer = frozenset(i for i, letter in enumerate(output) if not seen.get(letter))
    made: tuple[Made, ...] = ()
    for slot in product.weights:
        value, letters = terms[slot].value, terms[slot].letters
        kind, uses = product.uses(slot)
        host = product.host(slot, uses)
        if kind == "gain" and host is not None and set(letters) <= set(output):
            meet_elementwise(call.named("aten.mul"), _placed(value, letters, output), features, host, call.shape, outer)
        else:
            call.meet(value, uses, kind, host)
        if product.mixes(slot, uses):
            gone = [inner for letter, dim in zip(letters, value.dims, strict=True) if letter not in output
                    for inner in mixed(dim)]  # fmt: skip
            weight = replace(_placed(value, letters, output), inner=(*value.inner, *gone))
            sized = [dim or fresh_dim(size) for dim, size in zip(weight.dims, call.shape, strict=True)]
            made = call.stack(weight.with_dims(sized))
    for slot in product.weights:
        for letter, dim in zip(terms[slot].letters, terms[slot].value.dims, strict=True):
            if dim or letter not in seen:
                beside = [seen[letter]] if has_runs(seen.get(letter, ())) else []
                seen[letter] = overlaid([result_dim(dim), *beside], dim_size(dim))
    values = [*kept, *(terms[slot].value for slot in product.weights)]
    offsets = {axis: offset for value in values for axis, offset in value.offsets.items()}
    touched = bool(product.weights) or any(term.value.touched for term in terms)
    dims = tuple(seen.get(letter, ()) for letter in output)
    result = Value("data", dims, offsets=offsets, touched=touched, made=made)
    return result if result.shape == call.shape else result.spread_out(call.shape, feature=True)


def _entry_by_entry(call: Call, product: Product) -> Value:
    """Nothing is summed: an elementwise product of operands that are broadcast."""
    values = [_placed(value, letters, product.output) for _, value, letters in product.terms]
    return combined(call.named("aten.mul"), [term.node for term in product.terms], values, call.shape)


def _placed(value: Value, letters: str, output: str) -> Value:
    """An operand with its dimensions in the order of the result's, of size one where it has none."""
    dims = dict(zip(letters, value.dims, strict=True))
    return replace(value, dims=tuple(dims.get(letter, ()) for letter in output))
