"""A model may hold objects of any class, whose own methods raise: planning looks past them and changes nothing."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Any, NoReturn

import pytest
import torch
from torch import Tensor, nn

import normc
from normc.model.trace.foreign import ask, held_by, signature_of
from normc.model.trace.untouched import untouched


def _refuse(*_: object, **__: object) -> NoReturn:
    raise ImportError("an optional dependency")


class Lazy:
    """A stand-in for a library that isn't there: every attribute raises."""

    def __getattr__(self, name: str) -> NoReturn:
        raise ImportError(name)


def refusing(kind: Any, *names: str) -> Any:
    """A subclass of `kind` in which those methods raise, and all by which Python asks a container about itself."""
    asked = ("__len__", "__iter__", "__bool__", "__eq__", "__contains__", *names)
    return type("Refusing", (kind,), {**dict.fromkeys(asked, _refuse), "__hash__": object.__hash__})


Row, Guarded = refusing(tuple), refusing(object, "__getattribute__", "__repr__")
Names, Queue = refusing(list, "clear", "extend"), refusing(deque, "clear", "extend")
Distinct = refusing(set, "clear", "update")
Table = refusing(dict, "items", "values", "clear", "update", "__setitem__")
Ordered = refusing(OrderedDict, "items", "values", "clear", "update")


class Config:
    """A configuration that refuses what it doesn't know."""

    def __getattr__(self, name: str) -> NoReturn:
        raise NotImplementedError(name)


class Renamed:
    @property  # type: ignore[misc]  # what is tried out
    def __class__(self) -> type:
        raise NotImplementedError


HELD: dict[str, Any] = {
    "lazy": Lazy(),
    "guarded": Guarded(),
    "tuple": Row((1, 2)),
    "list": Names(["a"]),
    "dict": Table(a=1),
    "ordered dict": Ordered(a=1),
    "set": Distinct({1}),
    "deque": Queue([1]),
    "no class": Renamed(),
    "inside": [Lazy(), {"k": Row((1,))}, Guarded()],
}


class Holder(nn.Module):
    lazy = Lazy()

    def __init__(self, held: Any) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 2)
        vars(self).update(held=held, config=Config())  # torch asks what is assigned for its class

    def forward(self, x: Tensor) -> Tensor:
        """x: [2, 4]."""
        return self.down(self.up(x).relu())


@pytest.mark.parametrize("how", sorted(HELD))
def test_a_model_that_holds_it_is_planned(how: str) -> None:
    model = Holder(HELD[how])
    roles = {row.name: row.role for row in normc.plan(model, torch.randn(2, 4)).rows}
    assert (roles["up.weight"], roles["down.weight"]) == ("input", "output")
    assert vars(model)["held"] is HELD[how]


def test_what_only_its_own_type_could_read_is_put_back() -> None:
    names, table, ordered, numbers, queue = Names(["a"]), Table(a=1), Ordered(a=1, b=2), Distinct({1}), Queue([1])
    held: list[Any] = [names, table, ordered, numbers, queue]
    with untouched(held):
        list.append(names, "b")
        dict.__setitem__(table, "b", 2)
        OrderedDict.move_to_end(ordered, "a")
        set.add(numbers, 2)
        deque.append(queue, 2)
    assert list.__getitem__(names, slice(None)) == ["a"] and dict.copy(table) == {"a": 1}
    assert [*OrderedDict.__iter__(ordered)] == ["a", "b"]
    assert set.copy(numbers) ^ {1} == set() and [*deque.__iter__(queue)] == [1]


class Called:
    """A forward that Python can't describe."""

    __signature__ = "none"

    def __init__(self, model: Holder) -> None:
        self.model = model

    def __call__(self, x: Tensor) -> Tensor:
        return self.model.down(self.model.up(x))


def test_a_forward_without_a_signature_is_planned() -> None:
    model: Any = Holder(None)
    model.forward = Called(model)
    assert signature_of(model.forward) is None
    assert normc.plan(model, torch.randn(2, 4))["up.weight"].role == "input"


def test_asking_gives_the_default_for_whatever_is_raised() -> None:
    assert ask(Lazy(), "x") is None and ask(Config(), "x", 3) == 3 and ask(Row((1,)), "count") is not None


def test_what_functions_and_objects_hold_is_found() -> None:
    kept = object()

    def reads() -> object:
        return kept

    assert kept in held_by(reads) and held_by(Lazy()) == []
