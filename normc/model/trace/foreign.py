"""What an object of an unknown class holds. Whatever its own code raises, a walk over the model goes on.

A model's attributes may be lazy imports, proxies and tuples without a length. Nothing here but `ask` and `signature_of`
runs code of theirs.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections import deque
from collections.abc import Iterator
from types import FunctionType, GetSetDescriptorType, MemberDescriptorType, MethodType
from typing import Any


def is_a(item: object, *kinds: type) -> bool:
    """Whether the type of `item` is one of `kinds`, whatever its `__class__` says."""
    return issubclass(type(item), kinds)


def attributes_of(item: object) -> dict[str, Any]:
    """The `__dict__` of `item` itself, not a copy; an empty one if it has none."""
    for base in type(item).__mro__:
        found: Any = base.__dict__.get("__dict__")
        if type(found) in (GetSetDescriptorType, MemberDescriptorType):
            own = found.__get__(item)
            return own if type(own) is dict else {}
    return {}


def slots_of(item: object) -> Iterator[tuple[Any, object]]:
    """The descriptor and the value of every slot of `item` that is set."""
    for base in type(item).__mro__:
        if "__slots__" not in base.__dict__:
            continue
        for slot in base.__dict__.values():
            if type(slot) is MemberDescriptorType:
                try:
                    yield slot, slot.__get__(item)
                except AttributeError:  # not set
                    continue


def held_by(item: object) -> list[object]:
    """What an object keeps: its attributes and slots; a function's variables from outside; what a partial is given."""
    if is_a(item, functools.partial):
        return [functools.partial.__getattribute__(item, name) for name in ("func", "args", "keywords")]
    if type(item) is MethodType:
        return [item.__self__]
    if type(item) is FunctionType:
        return closed_over(item)
    return [*attributes_of(item).values(), *(value for _, value in slots_of(item))]


def contents_of(item: object) -> list[object]:
    """What a container holds, of whatever class it is; a mapping's values. Nothing of anything else."""
    if is_a(item, dict):
        return list(dict.values(item))  # type: ignore[arg-type]  # it is one
    for kind in (list, tuple, set, frozenset, deque):
        if is_a(item, kind):
            return list(kind.__iter__(item))  # type: ignore[arg-type]  # likewise
    return []


def closed_over(function: FunctionType) -> list[object]:
    """The variables of an enclosing function that `function` reads, where they are set."""
    found: list[object] = []
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # a variable that isn't set yet
            found.append(cell.cell_contents)
    return found


def ask(item: object, name: str, default: Any = None) -> Any:
    """`item.name`; `default` if that raises anything."""
    try:
        return getattr(item, name, default)
    except Exception:  # noqa: BLE001  # a property of a class that nobody here knows
        return default


def signature_of(function: object) -> inspect.Signature | None:
    """What `function` takes; None where Python can't say."""
    try:
        return inspect.signature(function)  # type: ignore[arg-type]  # TypeError if it is nothing that can be called
    except Exception:  # noqa: BLE001  # a `__signature__` of a class that nobody here knows
        return None
