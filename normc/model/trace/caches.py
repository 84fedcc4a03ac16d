"""Caches beside a model's code, which would keep what a trace computed and hand it to the next real forward."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterable, Iterator, Mapping, Set
from types import FunctionType
from typing import Any

from torch import nn

from normc.model.trace.foreign import attributes_of, closed_over


@contextlib.contextmanager
def fresh_caches(model: nn.Module, visited: Set[str]) -> Iterator[None]:
    """Inside, every functools.lru_cache on the classes of `model` and in their source files starts out empty.

    They are emptied again on leaving, and so are those of the Python modules that the trace has `visited`: fake values
    are of no use to anyone else.
    """
    kinds = {base for module in model.modules() for base in type(module).__mro__}
    homes = {kind.__module__ for kind in kinds if not kind.__module__.startswith(("torch.", "builtins"))}
    own = [vars(kind) for kind in kinds if kind.__module__ in homes]
    _empty([*own, *_in_modules(homes)])
    try:
        yield
    finally:
        found = _in_modules(homes | visited)
        items = (item for entries in _in_modules(visited) for item in list(entries.values()))
        classes = (item for item in items if issubclass(type(item), type))
        _empty([*own, *found, *(vars(kind) for kind in classes if kind.__module__ in visited)])


def _in_modules(names: Iterable[str]) -> list[Mapping[str, Any]]:
    return [attributes_of(sys.modules[name]) for name in names if name in sys.modules]


def _empty(held: Iterable[Mapping[str, Any]]) -> None:
    for entries in held:
        for entry in list(entries.values()):
            item = entry.__func__ if type(entry) in _WRAPPING else entry
            cells = closed_over(item) if type(item) is FunctionType and item.__closure__ else (item,)
            for cell in cells:
                if type(cell) is functools._lru_cache_wrapper:
                    cell.cache_clear()


_WRAPPING = (staticmethod, classmethod)
