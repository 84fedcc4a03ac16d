"""What a chain needn't compute: identities of norms, scales and preconditioners, on a row's graph.

An LMO sees directions, not sizes: lmo(c g) = lmo(g) for c > 0, lmo(lmo(g)) = lmo(g), and the sign of every entry is the
same after any division by positive numbers (Pethick et al., arXiv 2502.07529, section 2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from torch import fx

from normc.plans.geometry import norms
from normc.update.ops import arithmetic, matrices, power, precondition, relative
from normc.update.program.program import placeholders, returned

Op = Callable[..., Any]


def least(number: Any) -> float:
    """The smallest of a rowwise number."""
    return float(min(number) if isinstance(number, tuple) else number)


class Finding(NamedTuple):
    """A law that was applied: `what` it did, `why` that changes nothing, and what it saves."""

    what: str
    why: str
    saving: str


# Multiples by one positive number for each parameter: op to whether a call of it is one.
positive: dict[Op, Callable[[fx.Node], bool]] = {
    arithmetic.scale: lambda node: least(node.kwargs["factor"]) > 0,
    precondition.debiased: lambda node: True,
    relative.clip_rms: lambda node: "view" not in node.kwargs,
}
# Multiples by a positive number for each entry.
diagonal: set[Op] = {arithmetic.adam_direction, precondition.divided, precondition.arctangent}
_VIEWS = (matrices.fold, matrices.take, matrices.flip, matrices.unfold)


def simplified(graph: fx.Graph) -> tuple[fx.Graph, tuple[Finding, ...]]:
    """A row's graph without what the laws show to be idle, and what they found. The same graph where they find none."""
    copy = fx.Graph()
    copy.output(copy.graph_copy(graph, {}))
    found = [finding for law in (_scales, _twice, _signs, _constrained) for finding in law(copy)]
    if not found:
        return graph, ()
    _drop_dead(copy)
    copy.lint()
    return copy, tuple(found)


def _lmos(graph: fx.Graph) -> list[fx.Node]:
    free = {norms[name].lmo for name in norms} | {matrices.polar, power.level}
    return [node for node in graph.nodes if node.op == "call_function" and node.target in free]


def _source(node: fx.Node) -> fx.Node | None:
    """What a node's first argument is, seen through views that nobody else looks at."""
    source = node.args[0]
    while isinstance(source, fx.Node) and source.target in _VIEWS and len(source.users) == 1:
        source = source.args[0]
    return source if isinstance(source, fx.Node) else None


def _scales(graph: fx.Graph) -> Iterator[Finding]:
    """lmo(c g) = lmo(g)."""
    for node in _lmos(graph):
        source = _source(node)
        while source is not None and source.op == "call_function" and len(source.users) == 1:
            test = positive.get(source.target) if callable(source.target) else None
            if test is None or not test(source):
                break
            (inner,) = [arg for arg in source.args[:1] if isinstance(arg, fx.Node)]
            name = getattr(source.target, "__name__", "")
            source.replace_all_uses_with(inner)
            graph.erase_node(source)
            what = f"{name} in front of {_name(node)} dropped"
            yield Finding(what, "lmo(c g) = lmo(g) for c > 0", "a pass over memory")
            source = inner


def _twice(graph: fx.Graph) -> Iterator[Finding]:
    """lmo(lmo(g)) = lmo(g)."""
    for node in _lmos(graph):
        source = node.args[0]
        again = isinstance(source, fx.Node) and source.target is node.target and source.kwargs == node.kwargs
        if again and node.target is not matrices.polar:  # Newton-Schulz only comes close to an LMO, twice comes closer
            assert isinstance(source, fx.Node)
            node.replace_all_uses_with(source)
            graph.erase_node(node)
            yield Finding(f"the second of two {_name(source)} dropped", "lmo(lmo(g)) = lmo(g)", "a pass over memory")


def _signs(graph: fx.Graph) -> Iterator[Finding]:
    """sign(g / d) = sign(g) for d > 0 entry by entry."""
    for node in _lmos(graph):
        source = _source(node)
        if node.target is not norms["sign"].lmo or source is None or len(source.users) != 1:
            continue
        if source.target in diagonal:
            inner = source.args[0]
            assert isinstance(inner, fx.Node)
            name = getattr(source.target, "__name__", "")
            source.replace_all_uses_with(inner)
            graph.erase_node(source)
            yield Finding(f"{name} in front of sign dropped", "sign(g / d) = sign(g) for d > 0", "its state")


def _constrained(graph: fx.Graph) -> Iterator[Finding]:
    """Decay, then a step of radius r: a convex step towards the ball of radius r / weight_decay."""
    for node in list(graph.nodes):
        before = node.args[0] if node.target is arithmetic.descend else None
        if not isinstance(before, fx.Node) or len(before.users) != 1:
            continue
        if before.target is arithmetic.decay:
            weight, lr, weight_decay = before.args
            decay: dict[str, Any] = {"weight_decay": weight_decay, **before.kwargs}
            bound = "the weights end within radius / weight_decay"
        elif before.target is arithmetic.shrink:
            weight, lr = before.args
            decay, bound = {"weight_decay": 1.0, **before.kwargs}, "the weights end within the radius"
        else:
            continue
        if lr is not node.args[2]:
            continue
        why = bound if _sized(node.args[1]) else "the same arithmetic"
        with graph.inserting_before(node):
            args, kwargs = (weight, node.args[1], lr), {**node.kwargs, **decay}
            step = graph.create_node("call_function", arithmetic.constrained, args, kwargs, "w")
        node.replace_all_uses_with(step)
        for gone in (node, before):
            graph.erase_node(gone)
        yield Finding("decay and step are one constrained step", why, "a pass over memory where weight_decay is 0")


def _sized(direction: Any) -> bool:
    """Whether a norm has given a step its size."""
    views = (*_VIEWS, arithmetic.scale, matrices.part, matrices.place)
    while isinstance(direction, fx.Node) and direction.target in views:
        direction = direction.all_input_nodes[0]
    return isinstance(direction, fx.Node) and direction in _lmos(direction.graph)


def _name(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.name))


def _drop_dead(graph: fx.Graph) -> None:
    """Forget states that reach no weight, and what only they needed."""
    weight, *news = returned(graph)
    states = placeholders(graph, "state")
    needed: set[fx.Node] = set()
    waiting = [weight]
    while waiting:
        node = waiting.pop()
        if node in needed:
            continue
        needed.add(node)
        waiting += node.all_input_nodes
        waiting += [new for state, new in zip(states, news, strict=True) if state is node]
    kept = [(state, new) for state, new in zip(states, news, strict=True) if state in needed]
    (output,) = (node for node in graph.nodes if node.op == "output")
    output.args = ((weight, *(new for _, new in kept)),)
    for node in reversed(list(graph.nodes)):
        idle = node.op == "call_function" or (node.op == "placeholder" and node.meta["kind"] in ("state", "number"))
        if idle and not node.users:
            graph.erase_node(node)
