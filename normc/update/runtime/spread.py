"""Tensors that lie over ranks: which entries each rank holds, and how whole ones come together on their owners.

Needs torch alone. Places are torch.distributed.tensor's own: who holds what is asked of its placements.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Runs = tuple[tuple[int, int], ...]  # half-open, along one axis, in order
Part = tuple[Runs, ...]  # what a rank holds of a tensor: runs along each axis

_ALIGN = 16  # bytes: every value of a message starts at a multiple


@dataclass(frozen=True)
class Held:
    """A tensor of `shape`, and the part that each rank of a group holds, in the order of the group's ranks.

    `alike` numbers the ranks: those with the same number hold the whole tensor between them, each entry once.
    """

    shape: tuple[int, ...]
    parts: tuple[Part, ...]
    alike: tuple[int, ...]

    def local(self, rank: int) -> tuple[int, ...]:
        """The shape of a rank's part."""
        return _shape(self.parts[rank])

    def sources(self, owner: int) -> list[int]:
        """The ranks that an owner gets its parts from, itself among them."""
        return [rank for rank, number in enumerate(self.alike) if number == self.alike[owner]]


def held(shape: Sequence[int], mesh: Sequence[int], placements: Sequence[Any]) -> Held:
    """Who holds what of a tensor on a mesh of this shape. ValueError for a sum that isn't taken yet (Partial)."""
    if any(placement.is_partial() for placement in placements):
        raise ValueError("a Partial tensor is a sum over ranks that isn't taken yet")
    return _held(tuple(shape), tuple(mesh), tuple(placements))


@functools.lru_cache(maxsize=4096)  # parameters of one shape that lie alike: a model has few of these, and many ranks
def _held(shape: tuple[int, ...], mesh: tuple[int, ...], placements: tuple[Any, ...]) -> Held:
    cutters = [[axis for axis, placement in enumerate(placements) if _cuts(placement, along)]
               for along in range(len(shape))]  # fmt: skip
    cuts = [_pieces(size, mesh, placements, own) for size, own in zip(shape, cutters, strict=True)]
    copies = [axis for axis, placement in enumerate(placements) if placement.is_replicate()]
    parts, alike = [], []
    for place in itertools.product(*map(range, mesh)):
        parts.append(tuple(cut[tuple(place[axis] for axis in own)] for cut, own in zip(cuts, cutters, strict=True)))
        alike.append(sum(place[axis] * math.prod(mesh[axis + 1 :]) for axis in copies))
    return Held(shape, tuple(parts), tuple(alike))


def _cuts(placement: Any, along: int) -> bool:
    return not placement.is_replicate() and bool(placement.dim == along)


def _pieces(
    size: int, mesh: tuple[int, ...], placements: tuple[Any, ...], cutters: list[int]
) -> dict[tuple[int, ...], Runs]:
    """What is held along one axis of a tensor, by the places along the axes of the mesh that cut it."""
    found: dict[tuple[int, ...], Tensor] = {(): torch.arange(size)}
    for axis in cutters:
        cut = functools.partial(_first_axis(placements[axis])._split_tensor, num_chunks=mesh[axis], with_padding=False)
        found = {(*place, own): piece for place, whole in found.items() for own, piece in enumerate(cut(whole)[0])}
    return {place: _runs(piece.tolist()) for place, piece in found.items()}


def copied(shape: Sequence[int], ranks: int) -> Held:
    """Of a tensor that every rank has whole."""
    part = tuple(((0, size),) for size in shape)
    return Held(tuple(shape), (part,) * ranks, tuple(range(ranks)))


def _first_axis(placement: Any) -> Any:
    """The same placement of a vector."""
    factor = getattr(placement, "split_factor", None)
    return type(placement)(0) if factor is None else type(placement)(0, split_factor=factor)


def _runs(indices: list[int]) -> Runs:
    found: list[list[int]] = []
    for index in indices:
        if found and found[-1][1] == index:
            found[-1][1] += 1
        else:
            found.append([index, index + 1])
    return tuple((start, stop) for start, stop in found)


def boxes(whole: Tensor, part: Part, local: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Views of a part's entries in the whole tensor, and of the same in the part."""
    for chosen in itertools.product(*map(_placed, part)):
        outer, inner = whole, local
        for axis, (start, begin, size) in enumerate(chosen):
            outer, inner = outer.narrow(axis, start, size), inner.narrow(axis, begin, size)
        yield outer, inner


def _placed(runs: Runs) -> list[tuple[int, int, int]]:
    """Of each run its start in the whole, its start in the part, and its size."""
    sizes = [stop - start for start, stop in runs]
    begins = itertools.accumulate(sizes, initial=0)
    return [(start, begin, size) for (start, _), begin, size in zip(runs, begins, sizes, strict=False)]


@dataclass(frozen=True)
class Value:
    """What an exchange carries of one parameter: `key` tells it from others. On `owner` it is whole.

    It has `dtype` on both sides, and crosses in `wire`, None for the same.
    """

    key: tuple[str, str]
    held: Held
    dtype: torch.dtype
    owner: int
    wire: torch.dtype | None = None

    @property
    def sent_as(self) -> torch.dtype:
        """The dtype in messages."""
        return self.wire or self.dtype


Message = list[tuple[Value, Part]]
Laid = tuple[Value, Part, Tensor]  # a value, which part of it, and its place in a message


class Rooms:
    """Memory of a device for messages, by what it is for. Exchanges that are never under way together take the same:
    all say how much they need before the first takes any.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._sizes: dict[Hashable, int] = {}
        self._of: dict[Hashable, Tensor] = {}

    def reserve(self, what: Hashable, size: int) -> None:
        """So many bytes, or more."""
        self._sizes[what] = max(size, self._sizes.get(what, 0))

    def take(self, what: Hashable, size: int) -> Tensor:
        """So many bytes that were reserved."""
        if what not in self._of:
            self._of[what] = self.own(self._sizes[what])
        return self._of[what][:size]

    def own(self, size: int) -> Tensor:
        """So many bytes that nobody else takes."""
        return torch.zeros(size, dtype=torch.uint8, device=self.device)


class Exchange:
    """Values gathered on their owners, or handed back: one message between any two ranks.

    Messages have the same sizes at every step, whatever gradients there are, so that no rank waits for another's
    choice. `inward` says that parts come together; else owners hand on what each rank holds, copies too. Of 16 bits
    that a value has in messages alone, what arrives is widened. Messages lie in rooms that exchanges of other windows
    may take in turn; parts that owners hand on stay where they arrive.
    """

    def __init__(self, values: Sequence[Value], group: Any, rooms: Rooms, inward: bool) -> None:
        self.group, self.inward = group, inward
        rank, ranks = torch.distributed.get_rank(group), torch.distributed.get_world_size(group)
        self._out_of = [messages(values, rank, peer, inward) for peer in range(ranks)]
        self._into = [messages(values, peer, rank, inward) for peer in range(ranks)]
        self.sent, self.received = [list(map(size_of, own)) for own in (self._out_of, self._into)]
        self._rooms = rooms
        rooms.reserve(("sent", inward, group), sum(self.sent))
        self._results: dict[tuple[str, str], Tensor] = {}
        if inward:
            rooms.reserve(("received", group), sum(self.received))
            for value, _ in itertools.chain.from_iterable(self._into):
                self._results[value.key] = torch.zeros(value.held.shape, dtype=value.dtype, device=rooms.device)
        else:
            self._in = rooms.own(sum(self.received))
            for value, _, local in _laid(self._in, self._into):
                self._results[value.key] = local.to(value.dtype)  # itself where that is what arrives
        self._work: Any = None

    @functools.cached_property
    def _messages(self) -> tuple[list[Laid], list[Laid]]:
        """What is sent, and what arrives, where it lies. The first step asks, when all have reserved room."""
        self._out = self._rooms.take(("sent", self.inward, self.group), sum(self.sent))
        if self.inward:
            self._in = self._rooms.take(("received", self.group), sum(self.received))
        return list(_laid(self._out, self._out_of)), list(_laid(self._in, self._into))

    @property
    def bytes_sent(self) -> int:
        """To others, in one exchange."""
        return sum(self.sent) - self.sent[torch.distributed.get_rank(self.group)]

    def results(self) -> Mapping[tuple[str, str], Tensor]:
        """Where values arrive: whole tensors on their owner, or this rank's parts. The same tensors every time."""
        return self._results

    def begin(self, given: Mapping[tuple[str, str], Tensor]) -> None:
        """Send: this rank's parts by key, or whole tensors by key; what is missing is sent as zeros. Waits for nothing;
        results are there after `finish`.
        """
        for value, part, local in self._messages[0]:
            tensor = given.get(value.key)
            if tensor is None:
                local.zero_()
            elif self.inward:
                local.copy_(tensor)
            else:
                for outer, inner in boxes(tensor, part, local):
                    inner.copy_(outer)
        self._work = torch.distributed.all_to_all_single(
            self._in, self._out, self.received, self.sent, group=self.group, async_op=True
        )

    def finish(self) -> None:
        """Wait until all has arrived; what runs on a GPU waits there, and the host doesn't."""
        self._work.wait()
        self._work = None
        for value, part, local in self._messages[1]:
            result = self._results[value.key]
            if not self.inward:
                result.copy_(local)
                continue
            for outer, inner in boxes(result, part, local):
                outer.copy_(inner)


def messages(values: Sequence[Value], giver: int, taker: int, inward: bool) -> Message:
    """What one rank sends another, in order: parts that come together at their owner, or what an owner hands on."""
    if inward:
        own = [value for value in values
               if value.owner == taker and value.held.alike[giver] == value.held.alike[taker]]  # fmt: skip
        return [(value, value.held.parts[giver]) for value in own]
    return [(value, value.held.parts[taker]) for value in values if value.owner == giver]


def size_of(message: Message) -> int:
    """Bytes of a message."""
    return sum(bytes_of(part, value.sent_as) for value, part in message)


def bytes_of(part: Part, dtype: torch.dtype) -> int:
    """Bytes that a part takes in a message."""
    return _padded(_bytes(part, dtype))


def _laid(buffer: Tensor, all_messages: Sequence[Message]) -> Iterator[Laid]:
    """Each value of the messages that a buffer holds one behind another, and its place there."""
    start = 0
    for value, part in itertools.chain.from_iterable(all_messages):
        size = _bytes(part, value.sent_as)
        yield value, part, buffer[start : start + size].view(value.sent_as).view(_shape(part))
        start += bytes_of(part, value.sent_as)


def _shape(part: Part) -> tuple[int, ...]:
    return tuple(sum(stop - start for start, stop in runs) for runs in part)


def _bytes(part: Part, dtype: torch.dtype) -> int:
    return dtype.itemsize * math.prod(_shape(part))


def _padded(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN


def shared_out(costs: Sequence[int], ranks: int) -> list[int]:
    """An owner for each cost: the largest first, each to the rank that has least (longest processing time first).

    Costs are whole numbers, so that every machine adds them up to the same loads.
    """
    loads = [(0, rank) for rank in range(ranks)]
    owners = [0] * len(costs)
    for index in sorted(range(len(costs)), key=lambda index: (-costs[index], index)):
        load, owners[index] = loads[0]
        heapq.heapreplace(loads, (load + costs[index], owners[index]))
    return owners
