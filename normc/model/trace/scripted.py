"""Scripted code as it was written: torch runs what it has profiled as one op, into which nobody sees."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

_CALLED: tuple[Any, ...] = (torch._C.ScriptFunction, torch._C.ScriptMethod)


@contextlib.contextmanager
def plainly() -> Iterator[None]:
    """Inside, every scripted function and method runs op by op, however often it has run before."""
    kept: dict[int, tuple[Any, Any]] = {}  # a function, so that its id is given to no other, and its copy
    own = [kind.__call__ for kind in _CALLED]

    def through(call: Callable[..., Any], leading: Callable[[Any], list[Any]]) -> Callable[..., Any]:
        def called(function: Any, *args: Any, **kwargs: Any) -> Any:
            if id(function) not in kept:
                copy = torch._C._create_function_from_graph(function.name, function.inlined_graph.copy())
                kept[id(function)] = function, copy
            given = _arguments(function.schema, [*leading(function), *args], kwargs)
            return call(kept[id(function)][1], *given)

        return called

    function, method = _CALLED
    function.__call__ = through(own[0], lambda _: [])
    method.__call__ = through(own[0], lambda bound: [bound.owner])
    try:
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]  # by its docs it is public
            yield
    finally:
        for kind, call in zip(_CALLED, own, strict=True):
            kind.__call__ = call


def _arguments(schema: Any, args: list[Any], kwargs: dict[str, Any]) -> list[Any]:
    """Every argument of a call by its place, as a function that is made of a graph takes them."""
    rest = schema.arguments[len(args) :]
    return [*args, *(kwargs.get(argument.name, argument.default_value) for argument in rest)]
