"""Elementwise update ops as Triton statements.

The ops before or behind a chain's core are run on fake tensors of one row, which gives a graph of aten ops; every one
of these has an expression here, or the ops can't be fused. A value of one entry is a scalar: scalars are worked on in
float64 and rounded when they meet a tensor.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch._decomp import core_aten_decompositions
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from normc.nodes import op_name
from normc.update.program.program import ROWWISE

_ENTRIES = 3  # of a traced row: more than one, so that scalars can be told apart
_ERRORS = (RuntimeError, TypeError, ValueError, NotImplementedError)

_INFIX = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "gt": ">", "ge": ">=", "lt": "<", "le": "<=", "eq": "==",
    "ne": "!=", "logical_and": "&", "logical_or": "|", "bitwise_and": "&", "bitwise_or": "|",
}  # fmt: skip
_CALLS = {"sqrt": "tl.sqrt", "rsqrt": "tl.rsqrt", "exp": "tl.exp", "log": "tl.log", "abs": "tl.abs"}
_SAME = {
    "clone", "alias", "detach", "view", "unsqueeze", "squeeze", "expand", "_to_copy", "reshape", "lift_fresh_copy",
    "_unsafe_view", "_reshape_copy",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Statements:
    """Lines of Triton, and the variable of each result. `reads` are the inputs that the lines use."""

    lines: tuple[str, ...]
    results: tuple[str, ...]
    reads: frozenset[str]


def statements(
    calls: Sequence[fx.Node], inputs: Mapping[fx.Node, tuple[str, str]], wanted: Sequence[fx.Node]
) -> Statements | None:
    """The calls as Triton, from inputs (kind, variable) of kind "tensor", "count" or "number"; None if one has no form.

    Rowwise arguments are inputs too: the variables `<call>_<argument>`.
    """
    text = (
        *((call.target, call.name, repr(call.args), repr(_alike(call))) for call in calls),
        *((node.name, *found) for node, found in inputs.items()),
        *(node.name for node in wanted),
    )
    return _statements(_Given(text, calls, inputs, wanted))


@dataclass(frozen=True, slots=True)
class _Given:
    """What `statements` is given, the same if its `text` is."""

    text: tuple[object, ...]
    calls: Sequence[fx.Node] = field(compare=False)
    inputs: Mapping[fx.Node, tuple[str, str]] = field(compare=False)
    wanted: Sequence[fx.Node] = field(compare=False)


def _alike(call: fx.Node) -> list[tuple[str, Any]]:
    return sorted((name, "a row's" if name in ROWWISE else value) for name, value in call.kwargs.items())


@functools.lru_cache(maxsize=64)  # buckets that differ in size alone have the same
def _statements(known: _Given) -> Statements | None:
    calls, inputs, wanted = known.calls, known.inputs, known.wanted
    variables = [variable for _, variable in inputs.values()]
    rows = {(call, name): f"{call.name}_{name}" for call in calls for name in ROWWISE if name in call.kwargs}

    def run(given: dict[str, Tensor]) -> tuple[Any, ...]:
        values: dict[fx.Node, Any] = {node: given[variable] for node, (_, variable) in inputs.items()}
        for call in calls:
            own = {name: given[variable] for (node, name), variable in rows.items() if node is call}
            args = fx.node.map_arg(call.args, values.__getitem__)
            kwargs: Any = {**fx.node.map_arg(call.kwargs, values.__getitem__), **own}
            assert callable(call.target)
            values[call] = call.target(*args, **kwargs)
        return tuple(values[node] for node in wanted)

    kinds = dict.fromkeys(rows.values(), "number") | {variable: kind for kind, variable in inputs.values()}
    try:
        with FakeTensorMode():
            given = {name: torch.empty(_SHAPES[kind]) for name, kind in kinds.items()}
        traced = make_fx(run, decomposition_table=_decompositions(), tracing_mode="fake")(given)
    except _ERRORS:
        return None
    return _printed(traced.graph, list(given), set(variables) | set(rows.values()))


@functools.cache  # every look at torch's table makes all of it anew
def _decompositions() -> dict[Any, Callable[..., Any]]:
    return dict(core_aten_decompositions())


_SHAPES = {"tensor": (1, _ENTRIES), "count": (1,), "number": ()}


def _printed(graph: fx.Graph, names: list[str], known: set[str]) -> Statements | None:
    text: dict[fx.Node, str] = {}
    lines: list[str] = []
    reads: set[str] = set()
    places = iter(names)
    for node in graph.nodes:
        if node.op == "placeholder":
            text[node] = next(places)
        elif node.op == "output":
            results = tuple(text[value] if isinstance(value, fx.Node) else repr(value) for value in node.args[0])
        elif node.op == "get_attr":
            return None
        else:
            found = _expression(node, text)
            if found is None:
                return None
            reads |= {text[source] for source in node.all_input_nodes}
            if op_name(node).split(".")[-1] in _SAME:
                text[node] = found
                continue
            text[node] = f"v{len(lines)}"
            lines.append(f"v{len(lines)} = {found}")
    return Statements(tuple(lines), results, frozenset((reads | set(results)) & known))


def _expression(node: fx.Node, text: Mapping[fx.Node, str]) -> str | None:
    name = op_name(node).split(".")[-1]
    scalar = _is_scalar(node)

    def word(value: Any) -> str | None:
        if isinstance(value, fx.Node):
            return f"{text[value]}.to(WIDE)" if not scalar and _is_number(value) else text[value]
        return _number(value)

    words = [word(value) for value in node.args]
    first = words[0] if words else None
    if name in _SAME:
        return first
    if name in _FORMS:
        return _FORMS[name](words, node)
    if any(value is None for value in words) or (node.kwargs and name not in ("add", "sub")):
        return None
    if name in ("add", "sub") and node.kwargs.get("alpha", 1) != 1:
        return f"{first} {_INFIX[name]} {words[1]} * {_number(node.kwargs['alpha'])}"
    if name in _INFIX and len(words) == 2:
        return f"{first} {_INFIX[name]} {words[1]}"
    return f"{_CALLS[name]}({first})" if name in _CALLS and len(words) == 1 else None


def _is_scalar(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.numel() == 1


def _is_number(node: fx.Node) -> bool:
    return _is_scalar(node) and node.meta["val"].dtype.is_floating_point


def _number(value: Any) -> str | None:
    """A constant's literal; None for what has none."""
    if isinstance(value, bool):
        return repr(value)
    if isinstance(value, int | float) and abs(value) != float("inf") and value == value:
        return repr(float(value)) if value >= 0 else f"({float(value)!r})"
    return None


Words = Sequence[str | None]


def _power(words: Words, node: fx.Node) -> str:
    base, exponent = words[:2]
    known = {2: f"{base} * {base}", 0.5: f"tl.sqrt({base})", -0.5: f"1.0 / tl.sqrt({base})", 1: f"{base}"}
    plain = node.args[1]
    if isinstance(plain, int | float) and plain in known:
        return known[plain]
    return f"power({base}, {exponent})"


def _clamp(words: Words, node: fx.Node) -> str:
    low, high = (*words[1:], None, None)[:2]
    low = low or _number(node.kwargs.get("min"))
    high = high or _number(node.kwargs.get("max"))
    found = str(words[0])
    found = f"tl.maximum({found}, {low})" if low else found
    return f"tl.minimum({found}, {high})" if high else found


_FORMS: dict[str, Callable[[Words, fx.Node], str | None]] = {
    "pow": _power,
    "clamp": _clamp,
    "neg": lambda words, _: f"-{words[0]}",
    "reciprocal": lambda words, _: f"1.0 / {words[0]}",
    "logical_not": lambda words, _: f"{words[0]} == 0",
    "sign": lambda words, _: f"({words[0]} > 0).to(WIDE) - ({words[0]} < 0).to(WIDE)",
    "where": lambda words, _: f"tl.where({words[0]}, {words[1]}, {words[2]})" if None not in words else None,
    "maximum": lambda words, _: f"tl.maximum({words[0]}, {words[1]})",
    "minimum": lambda words, _: f"tl.minimum({words[0]}, {words[1]})",
    "scalar_tensor": lambda words, _: words[0],
    "full": lambda words, node: _number(node.args[1]) if _is_scalar(node) else None,
}
