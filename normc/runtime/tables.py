"""What kernels' tables are made of: rows by stack, their states, and tensors that the host writes without waiting.

Needs torch alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from operator import is_, itemgetter
from typing import Any

import torch
from torch import Tensor

_PINNED = 4  # copies of what goes to the device, so that none is written while it is on its way


class Feed:
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
class Line:
    """The live rows of one stack: their places in it, parameters (or contiguous copies), what is kept of them, states
    by role, and counts of all rows by name.
    """

    shape: tuple[int, ...]
    total: int
    wide: torch.dtype
    slots: list[int] = field(default_factory=list)
    parameters: list[Tensor] = field(default_factory=list)
    kept: list[dict[str, Any]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    states: list[list[Tensor]] = field(default_factory=list)
    counts: list[Tensor] = field(default_factory=list)

    @property
    def index(self) -> Any:
        """What picks the live rows of a count."""
        return slice(None) if len(self.slots) == self.total else self.slots


class Store:
    """Where an optimizer's states come from; counts of one stack are views of one tensor, so that one op counts them.

    `make` gives a parameter's state by name and kind, `wide` the dtype that its states are kept in.
    """

    def __init__(
        self, make: Callable[[Tensor, str, str], Tensor], state: Any, wide: Callable[[Tensor], torch.dtype]
    ) -> None:
        self._make, self.state, self.wide = make, state, wide
        self._counts: dict[tuple[str, int, str], Tensor] = {}

    def of(self, parameter: Tensor) -> dict[str, Any]:
        """What is kept of a parameter."""
        found: dict[str, Any] = self.state[parameter]
        return found

    def like(self, parameter: Tensor, name: str) -> Tensor:
        """A state of its parameter's shape, contiguous."""
        found = self._make(parameter, name, "like")
        if not found.is_contiguous():
            found = self.state[parameter][name] = found.contiguous()
        return found

    def holds(self, line: Line) -> bool:
        """Whether the states of a stack are those of its parameters still."""
        pairs = zip(line.names, line.states, strict=True)
        return all(all(map(is_, map(itemgetter(name), line.kept), own)) for name, own in pairs)

    def counts(self, key: tuple[str, int, str], line: Line) -> Tensor:
        """The counts of all rows of a stack; those of its live rows are states of their parameters."""
        every = self._counts.setdefault(key, torch.zeros(line.total))
        for slot, parameter in zip(line.slots, line.parameters, strict=True):
            own = self._make(parameter, key[2], "count")
            if own.data_ptr() != every[slot].data_ptr():
                every[slot] = own
                self.state[parameter][key[2]] = every[slot]
        return every
