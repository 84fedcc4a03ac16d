"""The model is left as it was: what a forward changes in modules, in objects they hold and in the RNGs is undone."""

from __future__ import annotations

import contextlib
import random
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from operator import is_
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

# Objects of these packages hold locks, handles and other processes' state: never rolled back.
_FOREIGN = frozenset(
    {"_io", "_thread", "asyncio", "concurrent", "io", "logging", "multiprocessing", "numpy", "queue", "socket"}
    | {"subprocess", "threading", "weakref"}
)
_ATOMS = (str, bytes, int, float, complex, bool, type(None), type, ModuleType, BuiltinFunctionType, Tensor)


class Snapshot:
    """The contents of every container reachable from some roots, by reference: nothing is copied deeper."""

    def __init__(self, roots: Iterable[object]) -> None:
        self._undo: list[Callable[[], None]] = []
        self._kept: list[object] = []
        self._empty: list[dict[Any, Any] | list[Any] | deque[Any] | set[Any]] = []  # most of a module's dicts are
        seen: set[int] = set()
        waiting = list(roots)
        while waiting:
            item = waiting.pop()
            if isinstance(item, _ATOMS) or id(item) in seen:
                continue
            seen.add(id(item))
            self._kept.append(item)  # so that no id is given to another
            if isinstance(item, (dict, list, deque, set)) and not item:
                self._empty.append(item)
            else:
                waiting.extend(self._enter(item))

    def restore(self) -> None:
        """Put every container back; one that still holds the same objects isn't written to."""
        for item in self._empty:
            if item:
                item.clear()
        for undo in self._undo:
            undo()

    def _enter(self, item: Any) -> Iterable[object]:
        if isinstance(item, dict):
            return self._keep_dict(item)
        if isinstance(item, (list, deque)):
            return self._keep_sequence(item)
        if isinstance(item, set):
            return self._keep_set(item)
        if isinstance(item, (tuple, frozenset)):
            return item
        if isinstance(item, torch.Generator):
            self._keep_generator(item)
            return ()
        if isinstance(item, MethodType):
            return (item.__self__,)
        if isinstance(item, FunctionType):
            return [cell.cell_contents for cell in item.__closure__ or () if _filled(cell)]
        return self._keep_object(item)

    def _keep_dict(self, item: dict[Any, Any]) -> Iterable[object]:
        before = dict(item)

        def undo() -> None:
            same = len(item) == len(before) and all(map(is_, item, before))
            if not same or not all(map(is_, item.values(), before.values())):
                item.clear()
                item.update(before)

        self._undo.append(undo)
        return before.values()

    def _keep_sequence(self, item: list[Any] | deque[Any]) -> Iterable[object]:
        before = list(item)

        def undo() -> None:
            if len(item) != len(before) or any(now is not old for now, old in zip(item, before, strict=True)):
                item.clear()
                item.extend(before)

        self._undo.append(undo)
        return before

    def _keep_set(self, item: set[Any]) -> Iterable[object]:
        before = set(item)

        def undo() -> None:
            if item != before:
                item.clear()
                item.update(before)

        self._undo.append(undo)
        return before

    def _keep_generator(self, item: torch.Generator) -> None:
        state = item.get_state()

        def undo() -> None:
            item.set_state(state)

        self._undo.append(undo)

    def _keep_object(self, item: Any) -> Iterable[object]:
        kind = type(item)
        root = kind.__module__.partition(".")[0]
        if root in _FOREIGN or (root == "torch" and not isinstance(item, nn.Module)):
            return ()
        inside: list[object] = []
        slots = {slot: getattr(item, slot) for slot in _slots(kind) if hasattr(item, slot)}
        for slot, value in slots.items():
            self._undo.append(lambda slot=slot, value=value: _set_slot(item, slot, value))  # type: ignore[misc]
            inside.append(value)
        if isinstance(attributes := getattr(item, "__dict__", None), dict):
            inside.extend(self._keep_dict(attributes))
        return inside


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018  # an empty cell raises
    except ValueError:
        return False
    return True


def _slots(kind: type) -> Iterator[str]:
    for base in kind.__mro__:
        names = base.__dict__.get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            if name.startswith("__") and not name.endswith("__"):
                name = f"_{base.__name__.lstrip('_')}{name}"
            if name not in ("__dict__", "__weakref__"):
                yield name


def _set_slot(item: object, slot: str, value: object) -> None:
    if getattr(item, slot, None) is not value:
        object.__setattr__(item, slot, value)


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


def seed_for_tracing() -> None:
    """The same draws in every trace. Only generators that `rng_untouched` puts back; CUDA's aren't drawn from."""
    torch.default_generator.manual_seed(0)
    random.seed(0)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(0)
