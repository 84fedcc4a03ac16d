"""Weights that activations had a part in: chosen from a stack, mixed by shares, multiplied to be summed.

Where such a tensor comes up, nobody can say yet what it is: looked-up rows may be an embedding or matrices. So its
value is an activation's, which remembers in `made` what it would be as a weight. An op that contracts it with an
activation, with fan-in and fan-out of its own, shows that it is one; any other use shows that it is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from torch import fx

from normc.model.ops.call import MATRIX, Call, Contact, Record, Result, Rule, rule_for
from normc.model.ops.elementwise import is_linear, is_size, is_sum
from normc.model.ops.overlay import broadcast
from normc.model.ops.slots import slot_of
from normc.model.ops.value import Axis, Dim, Made, Value, is_source

_PRODUCTS = ("contraction", "einsum", "convolution")
_SUMS = (*_PRODUCTS, "reduction")
_FAMILIES = (*_SUMS, "views", "elementwise", "joining", "matrices", "frequency", "quantising")

_FORMS = ("built", "stack", "product", "sum", "distance")
_NORMS = ("aten.norm", "aten.linalg_vector_norm", "aten.linalg_norm")
# Operands, each seen as one of the weights that it is a sum of.
Group = Mapping[fx.Node, Made]


@dataclass(slots=True)
class _Attempt:
    """What came of seeing operands as weights: those that an op has shown to be some, and those that still may be."""

    shown: list[Made] = field(default_factory=list)
    kept: list[Made] = field(default_factory=list)
    grown: list[list[Made]] = field(default_factory=list)
    result: Result = ()

    def __bool__(self) -> bool:
        return bool(self.shown or self.grown)


def result_of(call: Call, rule: Rule) -> Result:
    """What a rule says of a call, with operands seen as the weights that they would make where that makes sense."""
    operands = call.node.all_input_nodes if call.name != "operator.getitem" else []
    held = {node: value for node in operands if (value := call.value(node)).made}
    if not held:
        return _begun(call, rule)
    made = {node: found for node, value in held.items() if (found := _open(call, value))}
    plain = call.seeing({node: replace(value, made=()) for node, value in held.items()})
    family = rule.__module__.rsplit(".", 1)[-1]
    items = [item for items in made.values() for item in items]
    if family == "elementwise" and is_sum(call) and len(made) == len(operands) > 1 and _of_products(items):
        return _joined(_begun(plain, rule), items)
    attempt = _Attempt()
    if family in _FAMILIES and _may_be_weights(call, family, made):
        attempt = next(filter(None, (_tried(plain, rule, family, groups) for groups in _groups(family, made))), attempt)
    call.record.end(item for item in items if item not in (*attempt.shown, *attempt.kept))
    names = frozenset[str]().union(*(item.weight.parameters for terms in attempt.grown for item in terms))
    result = _without_sources(attempt.result) if attempt.shown else _begun(plain, rule, names)
    return _carried(result, attempt.grown, call.record.begun.keys() & {call.node.name})


def _open(call: Call, value: Value) -> tuple[Made, ...]:
    """What a value may be as a weight. Of a sum that has been an activation elsewhere that is no question any more."""
    return tuple(item for item in value.made if item.form != "sum" or not item.origins & call.record.ended)


def _begun(call: Call, rule: Rule, names: frozenset[str] = frozenset()) -> Result:
    """The rule's result; contacts of what it begins to make, and of `names`, hold only as long as that is no weight."""
    before = len(call.record.contacts)
    result = rule(call)
    values = (result,) if isinstance(result, Value) else result
    own = [item.weight.parameters for value in values for item in value.made if call.node.name in item.origins]
    names = names.union(*own)
    if begun := [contact for contact in call.record.contacts[before:] if contact.parameter in names]:
        call.record.begun[call.node.name] = begun
    return result


def _may_be_weights(call: Call, family: str, made: Mapping[fx.Node, Sequence[Made]]) -> bool:
    """Whether a trial is worth its time: a product with a weight of its own is none, nor a sum with an activation."""
    others = [call.value(node) for node in call.node.all_input_nodes if node not in made]
    items = [item for items in made.values() for item in items]
    forms = {item.form for item in items}
    if family in _SUMS and forms & {"sum", "distance"}:
        measured = family == "reduction" and (forms == {"distance"} or call.name in _NORMS)
        return measured or slot_of(call.node) in made
    if family in _PRODUCTS:
        if (slot := slot_of(call.node)) is not None:
            return slot in made
        alone = not any(value.kind == "weight" for value in others)
        return alone or all(item.form == "built" or _is_matrix(item.weight) for item in items)
    if family != "elementwise":
        return True
    if _of_products(items) and not is_linear(call):
        return forms == {"distance"} or _measures(call, items)  # a function of a product is none
    scaled = any(value.kind == "data" for value in others)
    return not scaled or is_linear(call)


def _of_products(items: Sequence[Made]) -> bool:
    return any(item.form in ("product", "sum", "distance") for item in items)


def _measures(call: Call, items: Sequence[Made]) -> bool:
    """Whether an op makes of a difference how large its entries are, of which a sum is a distance."""
    return all(item.form == "sum" for item in items) and is_size(call)


def _groups(family: str, made: Mapping[fx.Node, Sequence[Made]]) -> Iterator[list[Group]]:
    """Which operands to see as weights: all; in a product, unless constants made all, first what are matrices."""
    single = all(len(items) == 1 for items in made.values())
    together = {node: items[0] for node, items in made.items()}
    if family in _PRODUCTS and any(item.form != "built" for item in together.values()):
        together = {node: item for node, item in together.items() if _is_matrix(item.weight)}
    if single and len(together) > 1:
        yield [together]
    if len(made) == 1 or family in _PRODUCTS:
        for node, items in made.items():
            yield [{node: item} for item in items]


def _is_matrix(weight: Value) -> bool:
    """Whether a weight runs along two axes of a parameter or more that nothing has picked or scaled."""
    axes: dict[str, set[int]] = {}
    for factor in (factor for dim in weight.dims for factor in dim if not factor.picked):
        if not any(is_source(run.axis) for run in factor.runs):
            for run in factor.runs:
                axes.setdefault(run.axis.parameter, set()).add(run.axis.number)
    return any(len(numbers) > 1 for numbers in axes.values())


def _tried(plain: Call, rule: Rule, family: str, groups: Sequence[Group]) -> _Attempt:
    """What the rule says of each group. Of an op that shows weights, what it has found is so."""
    attempt = _Attempt()
    for group in groups:
        host = next((item.data for item in group.values() if item.data is not None), None)
        weights = {node: item.weight for node, item in group.items()}
        trial = plain.seeing(weights, Record(plain.record.shapes), host)
        result = rule(trial.named("aten.sum") if any(item.form in ("sum", "distance") for item in group.values())
                      and trial.name in _NORMS else trial)  # fmt: skip
        vector = family == "reduction" and len(groups) == 1 and _scales(group.values())
        if family in _SUMS and _contracts(trial, list(group.values()), vector):
            plain.record.keep(trial.record)
            plain.record.shown |= frozenset[str]().union(*(item.origins for item in group.values()))
            attempt.shown += group.values()
            attempt.result = result
        elif terms := _grown(trial, result, list(group.values())):
            attempt.kept += group.values()
            attempt.grown.append(terms)
    return attempt


def _scales(made: Iterable[Made]) -> bool:
    """Whether weights, none of them picked from a table or stack, were multiplied by activations."""
    picked = any(factor.picked for item in made for dim in item.weight.dims for factor in dim)
    return not picked and all(item.form == "product" for item in made)


def _contracts(trial: Call, made: Sequence[Made], vector: bool) -> bool:
    """Whether a trial has shown weights: by a product with fan-in and fan-out, or in a layer's own place for a weight.

    A product with a constant has to stand there: else the constant is an activation, a table of sines. A sum over the
    product with a `vector` alone is one of fan-out 1.
    """
    names = frozenset[str]().union(*(item.weight.parameters for item in made))
    found = [contact for contact in trial.record.contacts if contact.parameter in names]
    if slot_of(trial.node) is not None:
        return bool(found)
    return all(item.form != "built" for item in made) and any(_is_product(contact, made, vector) for contact in found)


def _is_product(contact: Contact, made: Sequence[Made], vector: bool) -> bool:
    """Whether a contact has fan-in and fan-out, and no activation varies along both: else it was scaled, and is one.

    A `vector` needs no fan-out.
    """
    uses = {(part.axis, part.stride, part.size): part.use for part in contact.parts}
    if contact.kind not in MATRIX or not {"in", "kernel"} & set(uses.values()):
        return False
    if not vector and "out" not in uses.values():
        return False
    along: dict[str | None, set[str]] = {}
    for factor in (factor for item in made for dim in item.weight.dims for factor in dim):
        sources = {run.axis.parameter for run in factor.runs if is_source(run.axis)}
        for run in factor.runs if sources else ():
            if run.axis.parameter == contact.parameter:
                along.setdefault(uses.get((run.axis.number, run.stride, run.size)), set()).update(sources)
    return not along.get("in", set()) & along.get("out", set())


def _grown(trial: Call, result: Result, made: Sequence[Made]) -> list[Made]:
    """Results that are weights still, or were multiplied by another activation; none if some are neither."""
    origins = frozenset[str]().union(*(item.origins for item in made))
    data = next((item.data for item in made if item.data is not None), None)
    form = max((item.form for item in made), key=_FORMS.index)
    if _measures(trial, made):
        form = "distance"
    found: list[Made] = []
    for value in (result,) if isinstance(result, Value) else result:
        if value.kind == "weight" and not value.lost:
            if form == "distance":  # what bends the difference of a weight bends no weight
                before = {step for node in trial.operands for step in trial.value(node).via}
                value = replace(value, via=tuple(step for step in value.via if step in before))
            found.append(Made(form, value, origins, data))
        elif value.made:
            grown = value.made[0]
            form = max((form, grown.form), key=_FORMS.index)
            found.append(Made(form, grown.weight, origins, data or grown.data))
        else:
            return []
    return found


def _joined(result: Result, made: Sequence[Made]) -> Result:
    """A sum of what may be weights is a sum of all their terms."""
    assert isinstance(result, Value)
    grown = [item._replace(weight=item.weight.with_dims(broadcast([item.weight], result.shape))) for item in made]
    return replace(result, made=tuple(grown))


def _carried(result: Result, grown: Sequence[Sequence[Made]], begun: Set[str]) -> Result:
    """The results, which remember what they would be as weights."""
    if not grown:
        return result
    kept = [replace(value, made=tuple(terms[place]._replace(origins=terms[place].origins | begun) for terms in grown))
            for place, value in enumerate((result,) if isinstance(result, Value) else result)]  # fmt: skip
    return kept[0] if isinstance(result, Value) else kept


def settled(record: Record, values: dict[fx.Node, Value | Sequence[Value]]) -> list[Contact]:
    """The contacts that hold in the end; values of what turned out weights are weights'."""
    weights = record.shown - record.ended
    dropped = {id(contact) for name in weights for contact in record.begun.get(name, ())}
    for node, value in values.items():
        if isinstance(value, Value) and value.made and all(item.origins <= weights for item in value.made):
            weight = value.made[0].weight
            values[node] = replace(weight, dims=unsourced(weight.dims))
    held = [contact for contact in record.contacts if id(contact) not in dropped]
    entrywise = {contact.parameter for contact in held if contact.kind in ("gain", "shift")}
    held = [contact for contact in held if not (contact.parameter in entrywise and _sums_up(contact))]
    return [_mixed(contact, record.mixed) for contact in held]


def _sums_up(contact: Contact) -> bool:
    """Whether a reduction has summed the product with a vector: statistics of what is a gain or a shift elsewhere."""
    rule = rule_for(contact.node)
    family = rule.__module__.rsplit(".", 1)[-1] if rule is not None else ""
    return family == "reduction" and contact.kind in MATRIX and all(part.use != "out" for part in contact.parts)


def _mixed(contact: Contact, axes: set[Axis]) -> Contact:
    """A product whose results a choice mixes along an axis that it brings, beside another one, has blocks there."""
    outs = {part.axis for part in contact.parts if part.use == "out"}
    mixed = {number for number in outs if Axis(contact.parameter, number) in axes}
    if not mixed or mixed == outs or contact.kind not in MATRIX:
        return contact
    parts = (part._replace(use="block") if part.axis in mixed else part for part in contact.parts)
    return replace(contact, parts=tuple(parts))


def _without_sources(result: Result) -> Result:
    if isinstance(result, Value):
        return result.with_dims(unsourced(result.dims))
    return [value.with_dims(unsourced(value.dims)) for value in result]


def unsourced(dims: Iterable[Dim]) -> tuple[Dim, ...]:
    """Dimensions that run along parameters alone."""
    return tuple(
        tuple(replace(f, runs=tuple(run for run in f.runs if not is_source(run.axis))) for f in dim) for dim in dims
    )
