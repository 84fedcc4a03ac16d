"""Snapshots put back every kind of container that a module can hold."""

from __future__ import annotations

import random
from collections import OrderedDict, deque
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from normc.model.trace.untouched import rng_untouched, untouched


class _Slotted:
    __slots__ = ("__hidden", "shown")

    def __init__(self) -> None:
        self.shown, self.__hidden = 1, [1]

    def change(self) -> None:
        """Write to both slots."""
        self.shown = 2
        self.__hidden.append(2)

    def content(self) -> tuple[int, list[int]]:
        """What both slots hold."""
        return self.shown, self.__hidden


class _Holder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.order = OrderedDict(a=1, b=2)
        self.queue = deque([1, 2], maxlen=2)
        self.names = {"x"}
        self.plain = SimpleNamespace(deep=[{"k": 0}])
        self.slotted = _Slotted()
        self.draws = torch.Generator().manual_seed(1)
        self.teacher = [nn.Linear(2, 2)]


def test_every_container_is_put_back_also_after_an_error() -> None:
    holder = _Holder()
    teacher, state = holder.teacher[0], holder.draws.get_state()
    weight = teacher.weight
    with pytest.raises(KeyError), untouched(holder):
        holder.order.move_to_end("a")
        holder.queue.append(3)
        holder.names.add("y")
        holder.plain.deep[0]["k"] = 1
        holder.plain.extra = 5
        holder.slotted.change()
        torch.rand(3, generator=holder.draws)
        teacher.weight = nn.Parameter(torch.zeros(2, 2))
        holder.training = False
        holder.new = nn.Linear(1, 1)
        raise KeyError
    assert list(holder.order) == ["a", "b"] and list(holder.queue) == [1, 2] and holder.names == {"x"}
    assert vars(holder.plain) == {"deep": [{"k": 0}]}
    assert holder.slotted.content() == (1, [1])
    assert torch.equal(holder.draws.get_state(), state)
    assert teacher.weight is weight and holder.training and not hasattr(holder, "new")


def test_what_a_hooks_closure_or_object_holds_is_put_back() -> None:
    model, log = nn.Linear(2, 2), SimpleNamespace(seen=0)
    counts = [0]

    def bump(*_: object) -> None:
        counts[0] += 1
        log.seen += 1

    model.register_forward_hook(bump)
    with untouched(model):
        model(torch.ones(1, 2))
        assert counts == [1]
    assert counts == [0] and log.seen == 0


def test_random_generators_are_put_back() -> None:
    def drawn() -> tuple[float, float, float]:
        return torch.rand(1).item(), random.random(), float(np.random.rand())

    with rng_untouched():
        first = drawn()
    assert drawn() == first
