"""role: what each parameter is to the model: from where its operands come, where its results go, never from names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import fx

from normc.model.facts import Facts, Log, analysis
from normc.model.ops.call import Contact
from normc.model.ops.value import Value
from normc.model.trace.graph import ModelGraph, Parameter
from normc.nodes import op_name
from normc.passes.analyses.bind import Binding
from normc.passes.analyses.flow import Flow
from normc.passes.analyses.layout import Layout, Layouts, axis_uses, live, rank, summed_up
from normc.passes.analyses.routing import routes
from normc.plans.row import Role, Use

# Functions that leave a weight what it is: it is rounded, bounded, summed up or normalised.
_KEEPING = {"round", "sign", "sgn", "floor", "ceil", "trunc", "fix", "clamp", "clamp_min", "clamp_max", "hardtanh",
            "nan_to_num", "cumsum", "weight_norm", "aten.batch_norm", "aten.layer_norm", "aten.rms_norm",
            "aten.group_norm", "aten.instance_norm"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Roles:
    """Role and uses of every parameter; `fallbacks` holds the reason where the role could not be inferred."""

    of: Mapping[str, Role]
    uses: Mapping[str, tuple[Use, ...]]
    fallbacks: Mapping[str, str]


@analysis("role")
def role(model: ModelGraph, facts: Facts, log: Log) -> Roles:
    """One role a use; the weightiest use decides, and an output use outweighs all others of a tied matrix."""
    roles: dict[str, Role] = {}
    uses: dict[str, tuple[Use, ...]] = {}
    fallbacks: dict[str, str] = {}
    for parameter in model.parameters:
        name = parameter.name
        contacts = facts[Binding].contacts[name]
        layout = facts[Layouts].of[name]
        found = [(contact, *_role_of(contact, facts)) for contact in contacts]
        uses[name] = _distinct(Use(kind, op_name(c.node), c.node.meta.get("source", ""), c.node.meta.get("module", ""),
                                   axis_uses(parameter.shape, c)[0]) for c, kind, _ in found)  # fmt: skip
        nothing = layout.principal is None and 0 in parameter.shape  # no entry meets anything
        if nothing or model.nodes[name] not in facts[Flow].graded:
            roles[name] = "unused"
            why = "no gradient reaches it" if contacts else "nothing that the example ran reads it"
            log.because(name, "role", "unused", why)
        elif layout.principal is None:
            roles[name] = "state"
            fallbacks[name] = "a gradient reaches it, but no op's rule says where it meets an activation"
            log.because(name, "role", "state", fallbacks[name])
        else:
            counted = live(contacts, facts[Flow])
            roles[name] = _decide(parameter, layout, [item for item in found if item[0] in counted], log)
            if roles[name] == "position":
                _note_unread_index(model, name, facts, log)
            if layout.problem:
                fallbacks[name] = layout.problem
    return Roles(roles, uses, fallbacks)


def _note_unread_index(model: ModelGraph, name: str, facts: Facts, log: Log) -> None:
    """A constant index on the meta device may as well be that of a table of types: the plan says so."""
    for user in model.nodes[name].users:
        if op_name(user) not in ("aten.embedding", "aten.index_select"):
            continue
        index = next((source for source in user.all_input_nodes if source is not model.nodes[name]), None)
        value = facts[Binding].values.get(index) if index is not None else None
        if index is not None and isinstance(value, Value) and value.kind == "constant" and "concrete" not in index.meta:
            log.notes.append(
                f"{name} is taken for a position table, but its index could not be read: a buffer on the meta device; "
                "build the model in normc.model.weightless.weightless(), or override the row"
            )
            return


def _distinct(uses: Iterable[Use]) -> tuple[Use, ...]:
    return tuple(dict.fromkeys(uses))


def _decide(parameter: Parameter, layout: Layout, found: list[tuple[Contact, Role, str]], log: Log) -> Role:
    order = {"output": 0, "input": 2}
    contact, kind, why = min(found, key=lambda item: (rank(item[0], parameter.shape), order.get(item[1], 1)))
    if layout.problem:
        contact, kind, why = next((item for item in found if item[0].kind == "unknown"), found[0])
        why = layout.problem
    others = sorted({other for _, other, _ in found} - {kind})
    log.because(parameter.name, "role", kind, why, contact.node)
    if others:
        second = next(c for c, other, _ in found if other == others[0])
        log.because(parameter.name, "role", f"{kind}, which serves its use as {' and '.join(others)} too",
                    "one tensor, several uses", second.node)  # fmt: skip
    return kind


def _role_of(contact: Contact, facts: Facts) -> tuple[Role, str]:
    match contact.kind:
        case "contract" | "convolve":
            return _matrix_role(contact, facts)
        case "lookup":
            return _lookup_role(contact)
        case "operand" | "join" if bent(contact):
            return "state", f"it passes through {', '.join(bent(contact))} before it stands as an activation"
        case "operand":
            return "token", "it stands where an activation would: a learned operand"
        case "join":
            return "token", "its entries are put beside those of an activation"
        case "shift":
            return _shift_role(contact)
        case "gain":
            return _gain_role(contact)
    return "state", contact.reason or f"no rule for {op_name(contact.node)}"


def bent(contact: Contact) -> tuple[str, ...]:
    """The functions that a weight goes through before it meets an activation. Those of a whole tensor have a dot."""
    return tuple(op for op in contact.via if op not in _KEEPING)


def _matrix_role(contact: Contact, facts: Facts) -> tuple[Role, str]:
    flow = facts[Flow]
    uses = {part.use for part in contact.parts}
    if contact.kind == "contract" and not uses & {"in", "out", "kernel"}:
        return "state", "what its axes do in the product is not known: each entry by itself"
    if curves := [op for op in bent(contact) if "." not in op]:  # a function of a whole matrix is a matrix
        return "state", f"each entry passes through {', '.join(curves)} before the product"
    if _is_depthwise(contact):
        return "depthwise", "each channel has a filter of its own"
    if routes(contact.node, facts[Binding].values):
        return "router", "the largest of its results choose where the others go"
    if flow.last(contact.node) and not _is_recurrent(contact):
        return "output", "its result reaches the model's output with no other weight after it"
    if contact.data is not None and _comes_from_input(contact, facts):
        return "input", "its operand comes from the model's inputs with no other weight before it"
    return "hidden", "weights lie before it and after it"


def _comes_from_input(contact: Contact, facts: Facts) -> bool:
    value = facts[Binding].values.get(contact.data) if contact.data is not None else None
    if not isinstance(value, Value) or value.kind == "weight" or contact.touched:
        return False
    return value.kind == "data" or (contact.data is not None and not _is_zero(contact.data))


def _is_zero(node: fx.Node) -> bool:
    """Whether a constant is but zeros that something is added to later, and no table of features (sines of places)."""
    concrete = node.meta.get("concrete")
    if isinstance(concrete, torch.Tensor):
        return not bool(concrete.count_nonzero())
    made = op_name(node).rsplit(".", 1)[-1] in ("zeros", "zeros_like", "new_zeros")
    return made or (bool(node.all_input_nodes) and all(_is_zero(source) for source in node.all_input_nodes))


def _is_recurrent(contact: Contact) -> bool:
    """Whether the op feeds its results back into its own weights."""
    return op_name(contact.node).startswith(("aten.lstm", "aten.gru", "aten.rnn_"))


def _is_depthwise(contact: Contact) -> bool:
    """Many groups and one input channel in each."""
    groups = next((part.size for part in contact.parts if part.use == "block"), 1)
    return contact.kind == "convolve" and groups > 1 and not any(part.use == "in" for part in contact.parts)


def _lookup_role(contact: Contact) -> tuple[Role, str]:
    if contact.varying:
        return "embedding", "the model's inputs choose which of its entries are read"
    return "position", "places, not contents, choose which of its entries are read"


def _shift_role(contact: Contact) -> tuple[Role, str]:
    uses = {part.use for part in contact.parts}
    if contact.alike and all(part.size == 1 for part in contact.parts):
        return "scalar", "one number at a time, added" if contact.parts else "one number, added"
    if summed_up(contact):
        return "state", "its entries are summed up before they are added"
    if "index" in uses:
        return "position", "it is added with one entry for each place"
    if bent(contact) and "out" in uses:
        return "state", f"it passes through {', '.join(bent(contact))} before it is added"
    if contact.outer and op_name(contact.node).rstrip("_") not in ("aten.add", "prims.add"):
        return "state", "an activation is compared with each of its entries"
    return "bias", "it is added along the features, alike at every place"


def _gain_role(contact: Contact) -> tuple[Role, str]:
    if not contact.parts:
        return "scalar", "one number, multiplied"
    if all(part.size == 1 for part in contact.parts):
        return "scalar", "one number at a time, multiplied"
    if summed_up(contact):
        return "state", "its entries are summed up before they multiply"
    if not contact.varying:
        return "position", "places choose which of its entries are multiplied"
    if bent(contact) or "index" in {part.use for part in contact.parts}:
        through = f"through {', '.join(bent(contact))} " if bent(contact) else "along places "
        return "state", f"it multiplies an activation {through}entry by entry"
    if contact.outer and sum(part.use == "out" for part in contact.parts) > 1:
        return "state", "it multiplies an activation that it repeats, each time with other entries"
    return "gain", "it multiplies the features, alike at every place"
