"""The model is left as it was: what a forward changes in modules, in objects they hold and in the RNGs is undone."""

from __future__ import annotations

import contextlib
import random
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from operator import is_
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from normc.model.trace.foreign import attributes_of, closed_over, is_a, slots_of

# Objects of these packages hold locks, handles and other processes' state: never rolled back.
_FOREIGN = frozenset(
    {"_io", "_thread", "asyncio", "concurrent", "io", "logging", "multiprocessing", "numpy", "queue", "socket"}
    | {"subprocess", "threading", "weakref"}
)
_ATOMS = (str, bytes, int, float, complex, bool, type(None), type, ModuleType, BuiltinFunctionType, Tensor)
# An item is read and written by the methods of the first of these that it is one of: its own may raise.
_FILLED: dict[type, Callable[[Any], int]] = {kind: kind.__len__ for kind in (OrderedDict, dict, list, deque, set)}
_BASES: tuple[type, ...] = (*_ATOMS, *_FILLED, tuple, frozenset, torch.Generator, MethodType, FunctionType, object)


class Snapshot:
    """The contents of every container reachable from some roots, by reference: nothing is copied deeper."""

    def __init__(self, roots: Iterable[object]) -> None:
        self._undo: list[Callable[[], None]] = []
        self._kept: list[object] = []
        self._empty: list[tuple[Any, object]] = []  # most of a module's dicts are
        bases: dict[int, type] = {}
        seen: set[int] = set()
        waiting = list(roots)
        while waiting:
            item = waiting.pop()
            kind = type(item)
            base = bases.get(id(kind))
            if base is None:
                base = bases[id(kind)] = next(base for base in _BASES if issubclass(kind, base))
            if base in _ATOMS or id(item) in seen:
                continue
            seen.add(id(item))
            self._kept.append(item)  # so that no id is given to another
            if base in _FILLED and not _FILLED[base](item):
                self._empty.append((base, item))
            else:
                waiting.extend(self._enter(base, item))

    def restore(self) -> None:
        """Put every container back; one that still holds the same objects isn't written to."""
        for base, item in self._empty:
            if _FILLED[base](item):
                base.clear(item)
        for undo in self._undo:
            undo()

    def _enter(self, base: type[Any], item: Any) -> Iterable[object]:
        if base in (OrderedDict, dict):
            return self._keep_dict(base, item)
        if base in (list, deque):
            return self._keep_sequence(base, item)
        if base is set:
            return self._keep_set(item)
        if base in (tuple, frozenset):
            return base.__iter__(item)  # type: ignore[no-any-return]  # mypy takes it for the method of a type
        if base is torch.Generator:
            return self._keep_generator(item)
        if base is MethodType:
            return (item.__self__,)
        if base is FunctionType:
            return closed_over(item)
        return self._keep_object(item)

    def _keep_dict(self, kind: Any, item: dict[Any, Any]) -> Iterable[object]:
        before = dict(kind.items(item))

        def undo() -> None:
            same = kind.__len__(item) == len(before) and all(map(is_, kind.__iter__(item), before))
            if not same or not all(map(is_, kind.values(item), before.values())):
                kind.clear(item)
                for key, value in before.items():
                    kind.__setitem__(item, key, value)

        self._undo.append(undo)
        return before.values()

    def _keep_sequence(self, kind: Any, item: list[Any] | deque[Any]) -> Iterable[object]:
        before = list(kind.__iter__(item))

        def undo() -> None:
            if kind.__len__(item) != len(before) or not all(map(is_, kind.__iter__(item), before)):
                kind.clear(item)
                kind.extend(item, before)

        self._undo.append(undo)
        return before

    def _keep_set(self, item: set[Any]) -> Iterable[object]:
        before = list(set.__iter__(item))
        identities = set(map(id, before))

        def undo() -> None:
            if set(map(id, set.__iter__(item))) != identities:
                set.clear(item)
                set.update(item, before)

        self._undo.append(undo)
        return before

    def _keep_generator(self, item: torch.Generator) -> Iterable[object]:
        state = item.get_state()

        def undo() -> None:
            item.set_state(state)

        self._undo.append(undo)
        return ()

    def _keep_object(self, item: Any) -> Iterable[object]:
        kind = type(item)
        root = str(kind.__module__).partition(".")[0]
        if root in _FOREIGN or (root == "torch" and not is_a(item, nn.Module)):
            return ()
        inside: list[object] = []
        for slot, value in slots_of(item):
            self._undo.append(lambda slot=slot, value=value: _set_slot(item, slot, value))  # type: ignore[misc]
            inside.append(value)
        inside.extend(self._keep_dict(dict, attributes_of(item)))
        return inside


def _set_slot(item: object, slot: Any, value: object) -> None:
    if slot.__get__(item) is not value:
        slot.__set__(item, value)


@contextlib.contextmanager
def untouched(*roots: object) -> Iterator[None]:
    """Undo, on leaving, what happened to everything reachable from `roots`; also after an error.

    Not covered: class attributes, module globals and arrays of other libraries that a forward writes to.
    """
    snapshot = Snapshot(roots)
    try:
        yield
    finally:
        snapshot.restore()


@contextlib.contextmanager
def rng_untouched() -> Iterator[None]:
    """Put back the state of torch's, Python's and NumPy's random generators on leaving."""
    cpu, python = torch.get_rng_state(), random.getstate()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    numpy: Any = sys.modules.get("numpy")
    array = numpy.random.get_state() if numpy is not None else None
    try:
        yield
    finally:
        torch.set_rng_state(cpu)
        random.setstate(python)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        if numpy is not None and array is not None:
            numpy.random.set_state(array)


def seed_for_tracing(draw: int = 0) -> None:
    """The same draws in every trace, of Python and NumPy by their number. CUDA's generators aren't drawn from."""
    torch.default_generator.manual_seed(0)
    random.seed(draw)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(draw)


def drawn_from() -> tuple[object, ...]:
    """How far the generators of Python and NumPy are: another answer after something was drawn."""
    numpy: Any = sys.modules.get("numpy")
    _, keys, place, *rest = numpy.random.get_state() if numpy is not None else (0, b"", 0)
    return random.getstate(), bytes(keys), place, *rest
