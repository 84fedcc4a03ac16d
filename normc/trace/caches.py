"""Caches beside a model's code, which would keep what a trace computed and hand it to the next real forward."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterator

from torch import nn


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
    holders: list[object] = [kind for kind in kinds if kind.__module__ in homes]
    holders += [sys.modules[home] for home in homes if home in sys.modules]
    for holder in holders:
        for entry in list(vars(holder).values()):
            item = getattr(entry, "__func__", entry)  # what a static or a class method holds
            for cell in (item, *_closed_over(item)):
                if isinstance(cell, functools._lru_cache_wrapper):
                    cell.cache_clear()


def _closed_over(item: object) -> Iterator[object]:
    """What a decorator keeps: a wrapper's free variables."""
    for cell in getattr(item, "__closure__", None) or ():
        with contextlib.suppress(ValueError):  # a variable that isn't set yet
            yield cell.cell_contents
