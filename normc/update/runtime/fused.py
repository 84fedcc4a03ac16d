"""Steps of kernels that read pointers from tables on the device. Needs torch alone.

A table holds the addresses of weights, gradients and states, so that new gradients need no new code: their addresses
are copied to the device before the kernels run, and so are the numbers of the parameter groups.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from normc.update.kernels.language import BLOCK, tl
from normc.update.runtime.faults import raise_flags

# Bytes that a turn holds: LANES of them come to less than 1 GiB, with what cuBLAS takes; entries of a stack that is
# worth two turns, which run side by side; and streams that turns run in.
AT_ONCE = 256 * 2**20
WORTH_TWO = 16 * 2**20
LANES = 3


def stack_bytes(shape: Sequence[int]) -> int:
    """Bytes that a step holds of one matrix: itself and a product in 16 bits, and four squares of its shorter side."""
    entries = math.prod(shape)
    short = min(shape[0], entries // max(shape[0], 1)) if shape else 0
    return 4 * entries + 8 * short**2


def turns_of(rows: int, shape: Sequence[int]) -> int:
    """In how many turns rows of a shape are stepped: few, as each turn is some twenty launches."""
    most = max(1, AT_ONCE // max(stack_bytes(shape), 1))
    return max(1, min(rows, max(-(-rows // most), 2 if rows * math.prod(shape) > WORTH_TWO else 1)))


def lanes_of(most: int) -> int:
    """In how many streams turns run that hold up to `most` bytes: fewer than LANES if those would hold too much."""
    return min(LANES, max(1, LANES * AT_ONCE // max(most, 1)))


@dataclass(frozen=True)
class Fused:
    """A bucket's step in kernels, and what they read of each row: tensors by `roles` ("w", "g", states), numbers of
    the group, counted steps.

    `chains` are the numbers of rows in each stack; `rows`, by chain, the numbers of which each row has its own.
    `splits` says that rows may be stepped in several turns.
    """

    step: Callable[[FusedRun], None]
    roles: tuple[str, ...]
    counts: tuple[str, ...]
    numbers: tuple[str, ...]
    chains: tuple[int, ...]
    rows: tuple[tuple[tuple[float, ...], ...], ...] = ()
    splits: bool = False


@dataclass
class Stack:
    """The rows of one stack that have a gradient, as kernels see them.

    Tables have `stride` entries a line, of which `live` are this run's. `slots` are the rows' places in the stack.
    """

    shape: tuple[int, ...]
    total: int
    live: int
    stride: int
    table: Tensor
    slots: Tensor
    counts: Tensor
    rows: Tensor
    types: tuple[torch.dtype, ...]
    compute_dtype: torch.dtype
    align: int

    @property
    def entries(self) -> int:
        """Of one row."""
        return math.prod(self.shape)

    def look(self, found: Tensor, clean: bool) -> None:
        """Raise the flags [live] of gradients that aren't finite, and make their entries zero if `clean`."""
        raise_flags(self.table, found, self.entries, self.stride, clean, self.align, _named(self.types[1]), BLOCK)

    def cut(self, start: int, stop: int) -> Stack:
        """Some of the rows of a stack whose rows are all live, as a stack of their own."""
        own = {name: getattr(self, name)[..., start:stop] for name in ("table", "counts", "rows")}
        return replace(self, total=stop - start, live=stop - start, slots=self.slots[: stop - start], **own)


@dataclass
class FusedRun:
    """One bucket's share of a step, as its generated function sees it."""

    plan: Fused
    numbers: Tensor
    stacks: list[Stack]

    def turns(self) -> Iterator[FusedRun]:
        """The rows in turns, if they may be split and all have a gradient."""
        largest = max(self.stacks, key=lambda stack: stack.entries)
        total = sum(stack.total for stack in self.stacks)
        number = turns_of(total, largest.shape)
        if number <= 1 or not self.plan.splits or any(stack.live < stack.total for stack in self.stacks):
            yield self
            return
        for turn in range(number):
            start, stop = total * turn // number, total * (turn + 1) // number
            stacks = []
            for stack in self.stacks:
                stacks.append(stack.cut(max(0, min(start, stack.total)), max(0, min(stop, stack.total))))
                start, stop = start - stack.total, stop - stack.total
            yield replace(self, stacks=stacks)

    def stack_bytes(self) -> int:
        """Bytes that a run which takes turns holds at once."""
        return sum(stack.total * stack_bytes(stack.shape) for stack in self.stacks) if self.plan.splits else 0

    def step(self) -> None:
        """Launch all kernels."""
        self.plan.step(self)

    def new(self, place: int, dtype: torch.dtype | None = None) -> Tensor:
        """A stack [rows, *shape] to be written; zero for rows without a gradient."""
        own = self.stacks[place]
        make = torch.empty if own.live == own.total else torch.zeros
        return make((own.total, *own.shape), dtype=dtype or own.compute_dtype, device=self.numbers.device)

    def parts(self, place: int, most: int) -> tuple[Tensor, Tensor, Tensor]:
        """What a kernel that writes a stack measures of it: a scale of every BLOCK entries [rows, blocks], and of parts
        two numbers, each [rows, parts]. One and zero for rows without a gradient.
        """
        own = self.stacks[place]
        blocks = -(-own.entries // BLOCK)
        whole = own.live == own.total
        scales = (torch.empty if whole else torch.ones)(own.total, blocks, device=self.numbers.device)
        found = (torch.empty if whole else torch.zeros)(2, own.total, min(blocks, most), device=self.numbers.device)
        return scales, found[0], found[1]

    def value(self, name: str) -> Tensor:
        """A number of the parameter group, 0-d, in the state's dtype."""
        return self.numbers[self.plan.numbers.index(name)].to(self.stacks[0].compute_dtype)

    def launch(self, kernel: Any, place: int, *stacks: Tensor, parts: Sequence[tuple[Tensor, ...]] = ()) -> None:
        """Run a kernel over the live rows of a stack. `parts` are for what it measures of stacks that it writes."""
        own = self.stacks[place]
        if own.live == 0:
            return
        programs = parts[0][1].shape[1] if parts else -(-own.entries // BLOCK)
        kernel[programs, own.live](
            own.table,
            own.slots,
            self.numbers,
            own.counts,
            own.rows,
            *(stack.contiguous() for stack in stacks),
            *(part for own_parts in parts for part in own_parts),
            own.entries,
            own.stride,
            own.align,
            _named(own.compute_dtype),
            *(_named(dtype) for dtype in own.types),
            BLOCK,
        )


def _named(dtype: torch.dtype) -> Any:
    """The kernels' name for one of torch's dtypes."""
    return getattr(tl, str(dtype).removeprefix("torch."))


class Turn(Protocol):
    """What is launched in one stream."""

    def stack_bytes(self) -> int:
        """Bytes that it holds at once."""

    def step(self) -> None:
        """Launch all of it."""


class Lanes:
    """Streams that turns of a step run in side by side: one's memory traffic, and the ends of its launches, hide under
    another's products.
    """

    def __init__(self, device: torch.device, number: int = LANES) -> None:
        side = number - 1 if device.type == "cuda" else 0
        self._device = device
        self._streams = [torch.cuda.Stream(device) for _ in range(side)]

    def run(self, turns: Sequence[Turn]) -> None:
        """All of them, in no order; what comes next on the current stream comes after them."""
        first, *others = self._dealt(turns)
        used = list(zip(self._streams, others, strict=False))
        if used:
            main = torch.cuda.current_stream()
            for stream, _ in used:
                stream.wait_stream(main)
        for turn in first:
            turn.step()
        for stream, lane in used:
            with torch.cuda.stream(stream):
                for turn in lane:
                    turn.step()
        for stream, _ in used:
            main.wait_stream(stream)

    def recorded(self, turns: Sequence[Turn], first: Callable[[], object] = lambda: None) -> Callable[[], None]:
        """What runs `first` and then all of them again, from one CUDA graph. Nothing is run now.

        Its memory is its own, cuBLAS's workspaces included: those of streams in use before would be written to by both.
        """
        graph = torch.cuda.CUDAGraph()
        forget = getattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: None)
        forget()
        try:
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # others may use the device meanwhile
                first()
                self.run([Room(self._device, lane) for lane in self._dealt(turns)])
        finally:
            forget()
        return graph.replay

    def _dealt(self, turns: Sequence[Turn]) -> list[Sequence[Turn]]:
        """The turns of each lane that has any."""
        number = len(self._streams) + 1
        return [turns[lane::number] for lane in range(min(number, len(turns)))]


@dataclass(frozen=True)
class Room:
    """Turns that run in one stream, one after another, in memory that is one piece. A graph that asks for the memory of
    each as it comes keeps pieces that fit no other: twice as much.
    """

    device: torch.device
    turns: Sequence[Turn]

    def stack_bytes(self) -> int:
        """Bytes of the turn that holds most."""
        return max(turn.stack_bytes() for turn in self.turns)

    def step(self) -> None:
        """Launch all of them."""
        # What is freed at once is cut up by the others.
        torch.empty(self.stack_bytes(), dtype=torch.uint8, device=self.device)
        for turn in self.turns:
            turn.step()
