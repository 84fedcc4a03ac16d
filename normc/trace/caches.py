"""Caches beside a model's code, which would keep what a trace computed and hand it to the next real forward."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterator, Mapping
from types import FunctionType
from typing import Any

from torch import nn

from normc.trace.foreign import attributes_of, closed_over, is_a


@contextlib.contextmanager
def fresh_caches(model: nn.Module) -> Iterator[None]:
    """Inside, every functools.lru_cache on the classes of `model` and in their source files starts out empty.

    They are emptied again on leaving: fake values are of no use to anyone else.
    """
    _empty(model)
    try:
        yield
    finally:
        _empty(model)


def _empty(model: nn.Module) -> None:
    kinds = {base for module in model.modules() for base in type(module).__mro__}
    homes = {kind.__module__ for kind in kinds if not kind.__module__.startswith(("torch.", "builtins"))}
    held: list[Mapping[str, Any]] = [vars(kind) for kind in kinds if kind.__module__ in homes]
    held += [attributes_of(sys.modules[home]) for home in homes if home in sys.modules]
    for entries in held:
        for entry in list(entries.values()):
            item = entry.__func__ if is_a(entry, staticmethod, classmethod) else entry
            for cell in (item, *(closed_over(item) if type(item) is FunctionType else ())):
                if is_a(cell, functools._lru_cache_wrapper):
                    cell.cache_clear()
