"""layout: which axes of a parameter are fan-in, fan-out, independent blocks, kernel window or an index."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import fx

from normc.model.facts import Facts, Log, analysis
from normc.model.ops.call import MATRIX, Contact, ContactKind
from normc.model.trace.graph import ModelGraph, Parameter, shape_of
from normc.model.trace.reach import in_backward
from normc.nodes import op_name
from normc.passes.analyses.bind import Binding
from normc.passes.analyses.flow import Flow
from normc.plans.row import AxisUse

# Where a parameter is used in several ways, the first of these decides its layout; the other uses stay in its row.
PRECEDENCE: tuple[ContactKind, ...] = ("contract", "convolve", "lookup", "operand", "join", "shift", "gain", "unknown")
# Uses as a vector, which a part of a table can have beside the use of the table.
_VECTORS: tuple[ContactKind, ...] = ("operand", "join", "shift", "gain")


@dataclass(frozen=True, slots=True)
class Layout:
    """Axes of one parameter by the contact that decides (`principal`; None if it meets nothing), and its fans."""

    principal: Contact | None
    axes: tuple[AxisUse, ...]
    fan_in: int
    fan_out: int
    problem: str = ""

    def where(self, *uses: AxisUse) -> tuple[int, ...]:
        """The axes that play one of `uses`."""
        return tuple(i for i, use in enumerate(self.axes) if use in uses)


@dataclass(frozen=True, slots=True)
class Layouts:
    """Every parameter's layout by name."""

    of: Mapping[str, Layout]


@analysis("layout")
def layout(model: ModelGraph, facts: Facts, log: Log) -> Layouts:
    """The layout that the weightiest use of each parameter gives it."""
    contacts, flow = facts[Binding].contacts, facts[Flow]
    return Layouts({p.name: _layout(p, live(contacts[p.name], flow), flow, log) for p in model.parameters})


def live(contacts: tuple[Contact, ...], flow: Flow) -> tuple[Contact, ...]:
    """The uses that a gradient comes back from, if there are any: a distance that only chooses teaches nothing.

    Those in a derivative come second: they are the function's own, the other way round.
    """
    taught = tuple(contact for contact in contacts if contact.node in flow.taught) or contacts
    return tuple(contact for contact in taught if not in_backward(contact.node)) or taught


def rank(contact: Contact, shape: tuple[int, ...]) -> tuple[float, bool]:
    """The weight of a use, least first.

    A vector that is the lesser part of a table (the place of its class) comes last, and of a stack its entry 0, whose
    number says least. So do sums over all of it (a log-determinant's term). A table that is added place by place is
    one of places, whatever it stands beside elsewhere. Single numbers that are picked say less than the whole that is
    added or multiplied elsewhere.
    """
    covered = math.prod(sum(stop - start for start, stop in spans) for _, spans in contact.spans)
    lesser = contact.kind in _VECTORS and (2 * covered < math.prod(shape) or summed_up(contact))
    first = any(part.size == 1 and part.stride == 0 and part.start == 0 for part in contact.parts)
    placed = contact.kind == "shift" and any(part.use == "index" for part in contact.parts)
    own = PRECEDENCE.index("join") - 0.5 if placed else PRECEDENCE.index(contact.kind)
    if contact.kind == "lookup" and contact.parts and all(part.use == "index" for part in contact.parts):
        own = PRECEDENCE.index("gain") + 0.5
    return own + (len(PRECEDENCE) if lesser else 0), first


def summed_up(contact: Contact) -> bool:
    """Whether nothing but a sum over all entries of a parameter meets the activation."""
    return bool(contact.parts) and all(part.use == "block" and part.size > 1 for part in contact.parts)


def _layout(parameter: Parameter, contacts: tuple[Contact, ...], flow: Flow, log: Log) -> Layout:
    nothing: tuple[AxisUse, ...] = tuple("none" for _ in parameter.shape)
    if not contacts:
        return Layout(None, nothing, 1, math.prod(parameter.shape))
    unknown = next((contact for contact in contacts if contact.kind == "unknown"), None)
    principal = min(
        contacts,
        key=lambda c: (rank(c, parameter.shape), not (c.kind in MATRIX and flow.last(c.node))),
    )
    if unknown is not None:
        what = f"the axes are lost at {unknown.reason}" if unknown.reason else f"no rule for {op_name(unknown.node)}"
        problem = f"{what} ({unknown.node.meta.get('source', '')})".replace(" ()", "")
        return Layout(unknown, nothing, 1, math.prod(parameter.shape), problem)
    axes, problem = axis_uses(parameter.shape, principal)
    if parameter.dtype.is_complex:
        problem = "its entries are complex, and no update takes those: keep both parts of them in a real parameter"
    result = _with_fans(parameter, principal, axes, problem)
    _explain(parameter, result, log)
    _note_disagreement(parameter, contacts, result, log)
    return result


def axis_uses(shape: tuple[int, ...], contact: Contact) -> tuple[tuple[AxisUse, ...], str]:
    """What each axis does at one contact, and what can't be said ("" if all can)."""
    found: list[set[AxisUse]] = [set() for _ in shape]
    for part in contact.parts:
        if shape[part.axis] > 1:
            found[part.axis].add(part.use)
    if contact.kind in MATRIX:
        _one_way(found)
    axes: list[AxisUse] = []
    problem = ""
    for index, uses in enumerate(found):
        plain = uses - {"block"} if len(uses) > 1 else uses
        if len(plain) > 1 and plain not in ({"index", "out"}, {"in", "kernel"}):
            problem = f"axis {index} is {' and '.join(sorted(plain))} at once"
            problem += ": a matrix, or several, kept in one axis" if {"in", "out"} <= plain else ""
        axes.append(next((use for use in ("in", "out", "index", "kernel", "block") if use in plain), "none"))
    slid = frozenset(i for i, uses in enumerate(found) if "kernel" in uses or not uses)
    return _fill_ones(shape, axes, contact, slid), problem


def _one_way(found: list[set[AxisUse]]) -> None:
    """A matrix that stands as itself and transposed in one weight (W + W', U U') may be read either way: as stored."""
    both = [index for index, uses in enumerate(found) if uses - {"block"} == {"in", "out"}]
    if len(both) == 2:
        found[both[0]], found[both[1]] = {"out"}, {"in"}


def _fill_ones(
    shape: tuple[int, ...], axes: list[AxisUse], contact: Contact, slid: frozenset[int]
) -> tuple[AxisUse, ...]:
    """An axis of size one runs along nothing; in a product it is whichever of fan-out and fan-in is still missing.

    `slid`: the axes that may be a convolution's window, of which the last ones are.
    """
    if contact.kind in MATRIX:
        ones = [i for i, size in enumerate(shape) if size == 1 and axes[i] == "none"]
        wanted: list[AxisUse] = [use for use in ("out", "in") if use not in axes]
        window = _window(shape, contact)
        if axes[:1] == ["block"] and contact.kind == "convolve":
            wanted.reverse()
        for use, index in zip(wanted, [i for i in ones if i < len(shape) - window], strict=False):
            axes[index] = use
        for index in slid & set(range(len(shape) - window, len(shape))):
            axes[index] = "kernel"
    return tuple(axes)


def _window(shape: tuple[int, ...], contact: Contact) -> int:
    """How many of a filter's last axes are its window: those of the op, where the parameter has as many."""
    if contact.kind != "convolve":
        return 0
    filters = contact.node.args[1]
    places = len(shape_of(filters)) - 2 if isinstance(filters, fx.Node) else len(shape) - 2
    return max(min(places, len(shape) - 2), 0)


def _with_fans(parameter: Parameter, principal: Contact, axes: tuple[AxisUse, ...], problem: str) -> Layout:
    def size(*uses: AxisUse) -> int:
        return math.prod(n for n, use in zip(parameter.shape, axes, strict=True) if use in uses)

    return Layout(principal, axes, size("in", "index", "kernel"), size("out"), problem)


def _explain(parameter: Parameter, found: Layout, log: Log) -> None:
    assert found.principal is not None
    sizes = {
        use: [i for i, u in enumerate(found.axes) if u == use] for use in ("in", "index", "out", "block", "kernel")
    }
    words = {"in": "fan-in", "index": "index", "out": "fan-out", "block": "blocks", "kernel": "window"}
    claims = [
        f"{words[use]} {'x'.join(str(parameter.shape[i]) for i in places)} on {_axes(places)}"
        for use, places in sizes.items()
        if places
    ]
    log.because(parameter.name, "layout", ", ".join(claims) or "no axis of its own", _why(found), found.principal.node)


def _axes(places: list[int]) -> str:
    return f"axis {places[0]}" if len(places) == 1 else f"axes {', '.join(map(str, places))}"


def _why(found: Layout) -> str:
    assert found.principal is not None
    op = op_name(found.principal.node)
    reasons = {
        "contract": f"{op} sums over it with an activation",
        "convolve": f"{op} slides it over the places of an activation",
        "lookup": f"{op} picks entries by index",
        "operand": f"{op} takes it in the place of an activation",
        "join": f"{op} puts it beside the entries of an activation",
        "shift": f"{op} adds it along the features",
        "gain": f"{op} multiplies the features by it",
    }
    return reasons.get(found.principal.kind, op)


def _note_disagreement(parameter: Parameter, contacts: tuple[Contact, ...], found: Layout, log: Log) -> None:
    """One weight, two orientations (a tied autoencoder): the first holds, and the plan says so."""
    for contact in contacts:
        axes, _ = axis_uses(parameter.shape, contact)
        if contact.kind in MATRIX and contact is not found.principal and axes != found.axes:
            claim = f"the other way round too: {', '.join(axes)}"
            log.because(parameter.name, "layout", claim, "a second use has other axes", contact.node)
            return
