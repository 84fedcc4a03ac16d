"""What kernels' tables are made of: rows by stack, their states, and tensors that the host writes without waiting.

Needs torch alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from operator import attrgetter, is_, itemgetter
from typing import Any

import torch
from torch import Tensor

from normc.update.runtime.native import Looked, Loops

_PINNED = 4  # copies of what goes to the device, so that none is written while it is on its way


class HostBuffer:
    """A tensor on the device that the host writes without waiting for it."""

    def __init__(self, size: int, dtype: torch.dtype, device: torch.device) -> None:
        self.device = torch.zeros(max(size, 1), dtype=dtype, device=device)
        self._moves = device.type == "cuda"
        number = _PINNED if self._moves else 1
        self._host = [torch.zeros(max(size, 1), dtype=dtype, pin_memory=self._moves) for _ in range(number)]
        self._sent: list[Any] = [None] * number
        self._turn = 0

    def send(self, write: Callable[[Tensor], object]) -> None:
        """`write` fills a copy on the host, which then goes to the device, in the order of the stream."""
        self._turn = (self._turn + 1) % len(self._host)
        host, event = self._host[self._turn], self._sent[self._turn]
        if event is not None:
            event.synchronize()
        write(host)
        self.device.copy_(host, non_blocking=True)
        if self._moves:
            self._sent[self._turn] = torch.cuda.Event() if event is None else event
            self._sent[self._turn].record()


@dataclass
class LiveStack:
    """The live rows of one stack: their places in it, parameters (or contiguous copies), states by role, and by name
    the places of their counts among all that the store counts.
    """

    shape: tuple[int, ...]
    total: int
    compute_dtype: torch.dtype
    slots: list[int] = field(default_factory=list)
    parameters: list[Tensor] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    states: list[list[Tensor]] = field(default_factory=list)
    counts: dict[str, list[int]] = field(default_factory=dict)


def same(old: Collection[object], new: Collection[object], loops: Loops | None = None) -> bool:
    """Whether two collections hold the same objects."""
    return (loops is not None and loops.same(old, new)) or (len(old) == len(new) and all(map(is_, old, new)))


def look(parameters: list[Tensor]) -> Looked:
    """As the compiled loops do, but for kinds and weights. RuntimeError for gradients without memory of their own."""
    grads: list[Any] = list(map(attrgetter("grad"), parameters))
    try:
        return (), None, None, list(map(Tensor.data_ptr, grads))
    except TypeError:  # of those that are None
        without = tuple(place for place, grad in enumerate(grads) if grad is None)
        return without, None, None, [grad.data_ptr() for grad in grads if grad is not None]


class Store:
    """Where an optimizer's states come from. All counts are views of one tensor, `counted`, so that one op counts.

    `make` gives a parameter's state by name and kind, `compute_dtype` the dtype that its states are kept in; `capacity`
    is the number of counts there can be.
    """

    def __init__(
        self,
        make: Callable[[Tensor, str, str], Tensor],
        state: Mapping[Tensor, dict[str, Any]],
        compute_dtype: Callable[[Tensor], torch.dtype],
        capacity: int,
    ) -> None:
        self._make, self.state, self.compute_dtype = make, state, compute_dtype
        self.counted = torch.zeros(capacity)
        self._starts: dict[tuple[str, int, str], int] = {}
        self._taken = 0

    def like(self, parameter: Tensor, name: str, kind: str) -> Tensor:
        """A state of its parameter's shape, or its scales; contiguous."""
        found = self._make(parameter, name, kind)
        if not found.is_contiguous():
            found = self.state[parameter][name] = found.contiguous()
        return found

    def counts(self, key: tuple[str, int, str], stack: LiveStack) -> list[int]:
        """The places of a stack's live rows in `counted`, of which their parameters' states become views."""
        if key not in self._starts:
            self._starts[key] = self._taken
            self._taken += stack.total
        places = [self._starts[key] + slot for slot in stack.slots]
        for place, parameter in zip(places, stack.parameters, strict=True):
            own = self._make(parameter, key[2], "count")
            if own.data_ptr() != self.counted[place].data_ptr():
                self.counted[place] = own
                self.state[parameter][key[2]] = self.counted[place]
        return places


class StateSnapshot:
    """The states that tables were made of, to be seen again without looking parameters up, which is slow."""

    def __init__(self, state: Mapping[Tensor, dict[str, Any]], owners: Mapping[str, list[Tensor]]) -> None:
        """`owners` are the parameters of each state's name."""
        self._state = state
        self._every = list(state.values())
        self._kept = [(p, state[p]) for p in dict.fromkeys(p for own in owners.values() for p in own)]
        found = dict(self._kept)
        self._values = [
            (itemgetter(name), [found[p] for p in own], [found[p][name] for p in own]) for name, own in owners.items()
        ]
        self._note()

    def _note(self) -> None:
        """What the compiled loops compare with: dicts of the same names, and all of their values."""
        alike: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for _, kept in self._kept:
            alike.setdefault(tuple(kept), []).append(kept)
        self._noted = [(dicts, names, [v for kept in dicts for v in kept.values()]) for names, dicts in alike.items()]

    def still(self, loops: Loops | None = None) -> bool:
        """Whether all of them are where they were. Others may have come or gone."""
        if loops is not None and loops.holds(self._state, self._every):
            if all(loops.named(*noted) for noted in self._noted):
                return True
        elif not same(self._state.values(), self._every):
            if any(self._state.get(parameter) is not own for parameter, own in self._kept):
                return False
            self._every = list(self._state.values())
        try:
            still = all(all(map(is_, map(get, kept), own)) for get, kept, own in self._values)
        except KeyError:
            return False
        if still and loops is not None:
            self._note()
        return still
