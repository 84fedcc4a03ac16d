"""magnitude: how large every activation is, by the gain rule of each op, from the model's inputs (RMS 1) on.

Weights count as on their norm's sphere (THEORY A'3), so that the answer is about the architecture and not about today's
weights. An op without a rule is tried out on Gaussian operands; where that can't be done, what follows is unknown.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from torch import fx

from normc.model.facts import Facts, Log, analysis
from normc.model.gains.activations import BENDING, pointwise
from normc.model.gains.collapse import Doubted, doubted, plausible
from normc.model.gains.local import UNIT, At, Local, Model, Size, entry, floats, gain_of, gains
from normc.model.gains.probe import measured, probed
from normc.model.gains.sample import Samples, operand_of
from normc.model.ops.call import MATRIX
from normc.model.trace.graph import ModelGraph
from normc.nodes import op_name
from normc.passes.analyses.bind import Binding
from normc.passes.analyses.request import Request
from normc.passes.analyses.role import Roles


@dataclass(frozen=True, slots=True)
class Magnitudes:
    """Size of every activation (None: unknown), and the local gains of every op whose gains are known."""

    model: Model
    sizes: Mapping[fx.Node, Size | None]
    locals: Mapping[fx.Node, Local]
    unknown: Mapping[fx.Node, str]
    samples: Samples

    def rms(self, node: fx.Node | None) -> float | None:
        """RMS of a node's value; 1 for no node."""
        if node is None or self.model.nominal:
            return 1.0
        size = self.sizes.get(node, UNIT)
        return None if size is None else size.rms

    def probed(self) -> set[fx.Node]:
        """Nodes whose size, or whose gain to the output, was measured in part: ops tried out instead of told by a rule.

        A norm ends what is known of a size.
        """
        tried = [node for node, local in self.locals.items() if local.how == "probe"]
        return _reached(tried, lambda node: (user for user in node.users if op_name(user) not in _ANEW)) | _reached(
            tried, lambda node: node.all_input_nodes
        )


@analysis("magnitude")
def magnitude(model: ModelGraph, facts: Facts, log: Log) -> Magnitudes:
    """One walk forward."""
    binding, convention = facts[Binding], Model(facts[Request].recipe.gains)
    products = {c.node for found in binding.contacts.values() for c in found if c.kind in MATRIX}
    roles = facts[Roles].of
    tables = frozenset(name for name, role in roles.items() if role in _TABLES)
    sizes: dict[fx.Node, Size | None] = {}
    found: dict[fx.Node, Local] = {}
    unknown: dict[fx.Node, str] = {}
    samples = Samples(
        binding.values, sizes, lambda node: node in products or op_name(node) in _ANEW, lambda node: _drawn(node, roles)
    )
    mixed: set[fx.Node] = set()
    tries = 0
    for node in model.graph.nodes:
        at = At(node, convention, sizes, binding.values, node in products, False, tables, samples, mixed)
        if at.kind(node) == "weight" and not convention.nominal and at.data and at.name not in _SHAPED:
            mixed.add(node)
        if node.op != "call_function" or not floats(node):
            continue
        if at.kind(node) == "weight":
            _weight(at, sizes)
        if at.kind(node) != "data":
            continue
        try:
            local = _local(at)
        except LookupError as problem:
            sizes[node] = None
            unknown[node] = _cause(at, problem, unknown)
            continue
        if local.how == "probe":
            log.gains_probed.setdefault(op_name(node), node)
        if not plausible(at, local) and tries < _TRIES:
            tries += 1
            if (other := doubted(at, local)) is not None:
                _note(node, local, other, binding, log)
                local = other.local
        sizes[node], found[node] = local.size, local
        samples.forget()
    return Magnitudes(convention, sizes, found, unknown, samples)


def _note(node: fx.Node, local: Local, other: Doubted, binding: Binding, log: Log) -> None:
    """Say whose steps rest on a size that isn't believed."""
    behind = _reached([node], lambda at: (user for user in at.users if op_name(user) not in _ANEW))
    names = [name for name, found in binding.contacts.items() if any(contact.node in behind for contact in found)]
    named = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    where = f" ({node.meta['source']})" if node.meta.get("source") else ""
    if any(note.startswith(f"{op_name(node)}{where} ") for note in log.notes):
        return  # another layer's
    does = "explodes" if local.size.rms > 1 else "nearly vanishes"
    log.notes.append(
        f"{op_name(node)}{where} {does} for operands of the sizes that the plan assumes: its result is "
        f"{local.size.rms:.1g} in size. It counts with {other.local.size.rms:.1g}, as of operands "
        f"{other.factor:g} times as large; the steps of {named or 'no parameter'} rest on that"
    )


def _reached(starts: Iterable[fx.Node], after: Callable[[fx.Node], Iterable[fx.Node]]) -> set[fx.Node]:
    waiting = list(starts)
    seen = set(waiting)
    while waiting:
        fresh = [node for node in after(waiting.pop()) if node not in seen]
        seen.update(fresh)
        waiting += fresh
    return seen


def _weight(at: At, sizes: dict[fx.Node, Size | None]) -> None:
    """Entries of a weight are Gaussian of size 1 until a function is applied to them (a decay that is -exp(w))."""
    made = [node for node in at.node.all_input_nodes if at.kind(node) == "weight"]
    if len(made) != 1 or at.model.nominal:
        return
    if at.name in BENDING:
        with contextlib.suppress(LookupError, RuntimeError):
            sizes[at.node] = pointwise(replace(at, weights=True)).size
    elif made[0] in sizes:
        sizes[at.node] = sizes[made[0]]


def _local(at: At) -> Local:
    if not at.data:
        return Local(_counted(at), ())
    rule = gain_of(at.node)
    if rule is None:
        return probed(at)
    try:
        return rule(at)
    except LookupError as problem:
        return probed(at, problem)
    except (ValueError, AssertionError, OverflowError):
        return probed(at)


# Their second operand says a shape alone.
_SHAPED = frozenset({"expand_as", "view_as", "reshape_as", "type_as", "broadcast_tensors", "index_select"})
# Norms and lookups: what comes out has size 1, whatever went in.
_ANEW = frozenset(name for name in gains if gains.home(name).endswith(".normalising"))


_NAMED = 3
_TRIES = 20  # sizes that are tried anew in one model: each runs a stretch of the graph
_TABLES = ("position", "token", "embedding")
_SUMMING = ("input", "hidden", "output", "router", "depthwise")


def _drawn(parameter: fx.Node, roles: Mapping[str, str]) -> Size:
    """Entries of a parameter where a stretch of the graph is run: nothing for a bias, 1 for a gain."""
    role = roles[parameter.meta["param"]]
    if role in ("bias", "gain"):
        return Size(1.0, 1.0, 1) if role == "gain" else Size(0.0)
    return entry(parameter) if role in _SUMMING else UNIT


def _counted(at: At) -> Size:
    """Of what was made of no activation: a mask or a count that is drawn if it can be; what is fed in has size 1."""
    if at.model.nominal or op_name(at.node) in _ANEW or at.samples is None:
        return UNIT
    try:
        return measured(operand_of(at, at.node))
    except LookupError:
        return UNIT


def _cause(at: At, problem: LookupError, unknown: Mapping[fx.Node, str]) -> str:
    """The first op whose size isn't known, and why, rather than those that follow it."""
    before = next((node for node in at.data if at.sizes.get(node, UNIT) is None), None)
    if before is not None:
        return unknown.get(before, f"behind {op_name(before)}")
    source = at.node.meta.get("source", "")
    rule = "no gain rule for" if gain_of(at.node) is None else "the gain rule doesn't say it of"
    why = str(problem)
    return f"{rule} {op_name(at.node)}" + (f" ({source})" if source else "") + (f": {why}" if " " in why else "")
