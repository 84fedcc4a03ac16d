"""A graph at other widths: parameters and literal sizes change, and every op that sees one is run again, dataless."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from normc.errors import NormcError
from normc.model.trace.graph import ModelGraph
from normc.nodes import op_name
from normc.passes.resize.sizes import Atom, Dim, size_of, value
from normc.passes.resize.ties import question, with_literals
from normc.passes.resize.walk import SPLITS, VIEWS, Space

Sizes = Mapping[Atom, int]


def copied(model: ModelGraph) -> tuple[ModelGraph, dict[fx.Node, fx.Node]]:
    """A model graph that may be changed, and which node of it each node of the first one is."""
    graph = fx.Graph()
    nodes: dict[fx.Node, fx.Node] = {}
    for node in model.graph.nodes:
        nodes[node] = graph.node_copy(node, nodes.__getitem__)
        nodes[node].meta = dict(node.meta)
    found = {name: nodes[node] for name, node in model.nodes.items()}
    return replace(model, graph=graph, nodes=found), nodes


def stretched(
    model: ModelGraph, space: Space, sizes: Sizes, kept: Collection[fx.Node] = ()
) -> tuple[ModelGraph, list[str]]:
    """The graph with those sizes, and what is to be said about numbers that were taken for a function of a size.

    Numbers in the calls of `kept` are none.
    NormcError, naming the op and its line, where an op doesn't run at them.
    """
    made, nodes = copied(model)
    notes: dict[str, None] = {}
    free = _free(model.graph)
    for old in model.graph.nodes:
        new = nodes[old]
        if old.op == "output":
            new.meta["val"] = tuple(source.meta["val"] for source in new.args[0])  # type: ignore[union-attr]
        elif old.op != "call_function" or old in free:
            _resized(new, _shape(space.one(old), sizes))
        else:
            if old not in kept:
                _numbers(old, new, space, sizes, notes)
            _again(model, old, new, space, sizes)
    parameters = tuple(
        replace(parameter, shape=tuple(made.nodes[parameter.name].meta["val"].shape)) for parameter in model.parameters
    )
    return replace(made, parameters=parameters), list(notes)


def _shape(dims: tuple[Dim, ...], sizes: Sizes) -> tuple[int, ...]:
    return tuple(value(dim, sizes) for dim in dims)


def _free(graph: fx.Graph) -> set[fx.Node]:
    """Nodes that no parameter and no input leads to: constants, which have whatever shape they are met with."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        bound = node.op != "call_function" and ("param" in node.meta or "input" in node.meta)
        if not bound and all(source in found for source in node.all_input_nodes):
            found.add(node)
    return found


def _resized(node: fx.Node, shape: tuple[int, ...]) -> None:
    """Another shape; of a known constant, entries repeated or left out evenly."""
    val = node.meta.get("val")
    if not isinstance(val, Tensor) or tuple(val.shape) == shape:
        return
    known = node.meta.get("concrete")
    if isinstance(known, Tensor):
        for place, (old, new) in enumerate(zip(known.shape, shape, strict=True)):
            known = known.index_select(place, torch.arange(new) * old // max(new, 1)) if old != new else known
        node.meta["concrete"] = known
    node.meta["val"] = torch.empty(shape, dtype=val.dtype, device="meta")


def _again(model: ModelGraph, old: fx.Node, new: fx.Node, space: Space, sizes: Sizes) -> None:
    """Run an op on what its operands are now, if anything about it has changed."""
    name = op_name(old).rsplit(".", 1)[-1].rstrip("_")
    if name == "getitem":
        new.meta["val"] = new.args[0].meta["val"][new.args[1]]  # type: ignore[union-attr]
        return
    if name == "after_write":
        _resized(new, tuple(new.args[0].meta["val"].shape))  # type: ignore[union-attr]
        return
    predicted = _predicted(old, space, sizes)
    _put_literals(name, old, new, space, sizes, predicted)
    same = all(_same(a, b) for a, b in zip(old.all_input_nodes, new.all_input_nodes, strict=True))
    if same and predicted == _predicted(old, space, {}):
        return
    try:
        asked, operands = question(new)
        out = asked.run([tuple(node.meta["val"].shape) for node in operands], asked.literals)
    except LookupError:
        raise _refused(model, old, "it isn't known what it does with sizes") from None
    except (RuntimeError, TypeError, ValueError, IndexError, AssertionError, NotImplementedError) as problem:
        raise _refused(model, old, str(problem).split("\n")[0][:160]) from None
    shapes = [tuple(part.shape) for part in out] if isinstance(out, (tuple, list)) else [tuple(out.shape)]
    several = isinstance(out, (tuple, list))
    read = {user.args[1] for user in old.users if several and op_name(user) == "operator.getitem" and user.users}
    if any(a != b for i, (a, b) in enumerate(zip(shapes, predicted, strict=True)) if not read or i in read):
        raise _refused(model, old, f"it gives {shapes[0]}, and {predicted[0]} is what follows needs")
    new.meta["val"] = out
    new.meta.pop("concrete", None)


def _same(a: fx.Node, b: fx.Node) -> bool:
    first, second = a.meta.get("val"), b.meta.get("val")
    return first is second or _shapes(first) == _shapes(second)


def _shapes(val: Any) -> Any:
    return [_shapes(part) for part in val] if isinstance(val, (tuple, list)) else getattr(val, "shape", None)


def _predicted(node: fx.Node, space: Space, sizes: Sizes) -> list[tuple[int, ...]]:
    known = space.of[node]
    return [_shape(dims, sizes) for dims in known] if isinstance(known, list) else [_shape(known, sizes)]


def _refused(model: ModelGraph, node: fx.Node, why: str) -> NormcError:
    return NormcError(f"{model.describe(node)} can't be had at that size: {why}", "plan the model of that size itself")


def _put_literals(
    name: str, old: fx.Node, new: fx.Node, space: Space, sizes: Sizes, shapes: list[tuple[int, ...]]
) -> None:
    """The sizes that stand in the call."""
    args = list(new.args)
    if name in VIEWS and len(args) > 1 and not isinstance(args[1], fx.Node):
        if name == "flatten":
            return
        at = 2 if name == "unflatten" else 1
        start = int(args[1]) % len(space.one(old.args[0])) if name == "unflatten" else 0  # type: ignore[arg-type]
        count = len(args[at])  # type: ignore[arg-type]
        args[at] = list(shapes[0][start : start + count])
    elif name in SPLITS and name != "unbind":
        along = _dim(old, 2, len(shapes[0]))
        parts = [shape[along] for shape in shapes]
        if isinstance(args[1], (list, tuple)) and name != "tensor_split":
            args[1] = parts
        elif name in ("split", "unsafe_split") and isinstance(args[1], int) and args[1] > 1:
            args[1] = parts[0]
    elif name in ("slice", "narrow") and shapes != _predicted(old, space, {}):
        along = _dim(old, 1, len(shapes[0]))
        start = value(space.starts[old], sizes) if old in space.starts else 0
        if name == "narrow":
            args[2:4] = [start, shapes[0][along]]
        elif len(args) < 5 or args[4] == 1:
            args[1:4] = [along, start, start + shapes[0][along]]
    elif old in space.literals and any(value(dim, sizes) != size_of(dim) for dim in space.literals[old]):
        given, kwargs = with_literals(old, [value(dim, sizes) for dim in space.literals[old]])
        args = [new.args[i] if _has_node(arg) else arg for i, arg in enumerate(given)]
        new.kwargs = {name: new.kwargs[name] if _has_node(arg) else arg for name, arg in kwargs.items()}
    new.args = tuple(args)


def _dim(node: fx.Node, place: int, rank: int) -> int:
    given: Any = node.args[place] if len(node.args) > place else node.kwargs.get("dim", 0)
    return int(given) % max(rank, 1)


def _has_node(argument: Any) -> bool:
    if isinstance(argument, (list, tuple)):
        return any(map(_has_node, argument))
    return isinstance(argument, fx.Node)


_POWERS = ((-0.5, "1/sqrt of"), (0.5, "the root of"), (-1.0, "1 over"), (1.0, "as much as"))


def _numbers(old: fx.Node, new: fx.Node, space: Space, sizes: Sizes, notes: dict[str, None]) -> None:
    """A number that multiplies or divides and is a power of a size that changes: the same power of the new size."""
    name = op_name(old).rsplit(".", 1)[-1].rstrip("_")
    if "scale" in old.kwargs and isinstance(old.kwargs["scale"], float):
        new.kwargs = {**new.kwargs, "scale": _power(old, old.kwargs["scale"], space, sizes, notes)}
    elif name in ("mul", "div") and len(old.args) == 2:
        new.args = tuple(
            _power(old, given, space, sizes, notes) if isinstance(given, float) else kept
            for given, kept in zip(old.args, new.args, strict=True)
        )


def _power(node: fx.Node, number: float, space: Space, sizes: Sizes, notes: dict[str, None]) -> float:
    near = [
        node,
        *node.all_input_nodes,
        *(source for first in node.all_input_nodes for source in first.all_input_nodes),
    ]
    for dim, (power, words) in itertools.product((dim for at in near for dim in space.one(at)[-1:]), _POWERS):
        before, after = size_of(dim), value(dim, sizes)
        if before > 1 and before != after and math.isclose(before**power, number, rel_tol=1e-6):
            source = node.meta.get("source", "")
            where = f" ({source})" if source else ""
            notes[f"the number {number:.6g} in {op_name(node)}{where} is taken for {words} the size {before}"] = None
            return float(after**power)
    return number
