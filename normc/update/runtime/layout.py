"""What steps of fused buckets need on the device: addresses and numbers go there, then all kernels run, from the third
step on as a CUDA graph. Needs torch alone.
"""

from __future__ import annotations

import warnings
from array import array
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from normc.update.kernels.ahead import compile_ahead
from normc.update.runtime.faults import FINITE, Flags
from normc.update.runtime.fused import FusedRun, Lanes, Stack, lanes_of
from normc.update.runtime.native import Addresses
from normc.update.runtime.progress import progress
from normc.update.runtime.run import Bucket, Update
from normc.update.runtime.tables import HostBuffer, LiveStack, StateSnapshot, Store, same

_EAGER = 2  # steps before a graph is made of them: kernels compile in the first
_ELSEWHERE = float("nan")  # stands for a number that is on the device, and equals no other
ALIGN = 16  # bytes that addresses are multiples of, or 1 where some aren't
ADDRESS: Callable[[Tensor], int] = Tensor.data_ptr
DTYPE: Callable[[Tensor], torch.dtype] = attrgetter("dtype")


class Layout:
    """What the steps with one set of gradients need: tables on the device, runs that read them, and their graph.

    Rows of parameters that are missing, or have no gradient, are left out. `flags` are of gradients that aren't finite.
    """

    def __init__(
        self, update: Update, buckets: Sequence[Bucket], members: Mapping[str, Tensor], store: Store, policy: str
    ) -> None:
        self.buckets: list[Bucket] = []
        self.stacks: list[list[LiveStack]] = []
        for bucket in buckets:
            stacks = [_live_stack(update, bucket, place, members, store) for place in range(len(_plan(bucket).chains))]
            if any(stack.parameters for stack in stacks):
                self.buckets.append(bucket)
                self.stacks.append(stacks)
        flat = [stack for stacks in self.stacks for stack in stacks if stack.parameters]
        self._flat, self._policy = flat, policy
        self.device = flat[0].parameters[0].device
        self.originals = [parameter for stack in flat for parameter in stack.parameters]
        of = {id(parameter): name for name, parameter in members.items()}
        names = [of[id(parameter)] for parameter in self.originals]
        self.flags = Flags(names, torch.zeros(len(names) + 1, device=self.device))
        self._outside = torch.zeros(1, device=self.device)
        owners: dict[str, list[Tensor]] = {}
        for stack in flat:
            for name in (*stack.names, *stack.counts):
                owners.setdefault(name, []).extend(stack.parameters)
        self.noncontiguous = [p for p in self.originals if not p.is_contiguous()]
        stand_ins = {id(p): p.detach().contiguous() for p in self.noncontiguous}
        self.stand_ins = [stand_ins[id(p)] for p in self.noncontiguous]
        for stack in flat:
            stack.parameters = [stand_ins.get(id(p), p) for p in stack.parameters]
        self.dtypes = [p.dtype for p in self.originals]
        self.shapes = [p.shape for p in self.originals]
        self.mixed = any(len({parameter.dtype for parameter in stack.parameters}) > 1 for stack in flat)
        self.snapshot = StateSnapshot(store.state, owners)
        self._weights = [parameter for stack in flat for parameter in stack.parameters]
        self._table()
        given = [(bucket.group, name) for bucket in self.buckets for name in _plan(bucket).numbers]
        self._numbers = [number for number in dict.fromkeys(given) if number[1] != FINITE]
        places = {number: place for place, number in enumerate(self._numbers)}
        self._given = torch.tensor([places.get(number, len(places)) for number in given], dtype=torch.int64)
        free = [place for place, (_, name) in enumerate(given) if name == FINITE]
        self._free = torch.tensor(free, dtype=torch.int64, device=self.device)
        self._values: list[float] = []
        counts = [place for stack in flat for places in stack.counts.values() for place in places]
        self._counted = store.counted
        every = counts == list(range(len(store.counted)))
        self._counts = None if every or not counts else torch.tensor(counts, dtype=torch.int64)
        self._ones = torch.ones(len(counts))
        self._counts_too = len(counts) > 0
        self._next = torch.zeros(len(given) + len(counts), dtype=torch.float64)
        self._next_numbers, self._next_counts = self._next.split([len(given), len(counts)])
        self._floats = HostBuffer(len(given) + len(counts), torch.float64, self.device)
        self.runs = self._runs()
        most = max(turn.stack_bytes() for turn in self._turns())
        self._lanes = Lanes(self.device, lanes_of(most) if "lanes" not in update.without else 1)
        self.steps = 0
        self.graph: Callable[[], None] | None = None

    def _table(self) -> None:
        """The table of addresses on the host, without those of weights and gradients, whose places it notes."""
        table, weights, grads = array("q"), array("q"), array("q")
        for stack in self._flat:
            live = len(stack.parameters)
            weights.extend(range(len(table), len(table) + live))
            grads.extend(range(len(table) + live, len(table) + 2 * live))
            table.extend([0] * (2 * live))
            for own in stack.states:
                table.extend(map(ADDRESS, own))
        self._host = _tensor(table)
        self._of_weights, self._of_grads = _tensor(weights), _tensor(grads)
        self._addresses = HostBuffer(len(table), torch.int64, self.device)
        self._last: tuple[Any, Any] = ([], [])
        self.signature: bytes | None = None

    def _runs(self) -> list[FusedRun]:
        found, ints, number, floats = [], 0, 0, len(self._given)
        for bucket, live_stacks in zip(self.buckets, self.stacks, strict=True):
            plan, stacks = _plan(bucket), []
            for place, members in enumerate(live_stacks):
                live, roles = len(members.parameters), len(plan.roles)
                table = self._addresses.device[ints : ints + roles * live].view(roles, live)
                counts = self._floats.device[floats : floats + len(plan.counts) * live].view(len(plan.counts), live)
                ints, floats = ints + roles * live, floats + len(plan.counts) * live
                values = [
                    [values[slot] for slot in members.slots] for values in (plan.rows[place] if plan.rows else ())
                ]
                dtypes = tuple(own[0].dtype for own in (members.parameters, members.parameters, *members.states) if own)
                rows = torch.tensor(values, dtype=torch.float64, device=self.device).view(len(values), live)
                slots = torch.tensor(members.slots, dtype=torch.int32, device=self.device)
                stacks.append(
                    Stack(members.shape, members.total, live, live, table, slots, counts, rows, dtypes,
                          members.compute_dtype, ALIGN)
                )  # fmt: skip
            own = self._floats.device[number : number + len(plan.numbers)]
            number += len(plan.numbers)
            found.append(FusedRun(plan, own, stacks))
        return found

    def fits(self) -> bool:
        """Whether parameters still are as they were when the tables were made."""
        noncontiguous = [p for p in self.originals if not p.is_contiguous()]
        shapes = [p.shape for p in self.originals]
        now, before = [*map(DTYPE, self.originals), *noncontiguous], [*self.dtypes, *self.noncontiguous]
        return shapes == self.shapes and same(now, before)

    def feed(self, grads: Addresses, weights: Addresses | None, groups: Sequence[Mapping[str, Any]]) -> bool:
        """Send addresses and numbers, if they changed. False, with nothing sent, if parameters have other memory and
        don't fit now.
        """
        if weights is None or self.noncontiguous:
            weights = list(map(ADDRESS, self._weights))
        old_weights, old_grads = self._last
        if weights != old_weights or grads != old_grads:
            if weights != old_weights:
                if old_weights and not self.fits():
                    return False
                self._host[self._of_weights] = _tensor(array("q", weights))
            self._host.scatter_(0, self._of_grads, _tensor(array("q", grads)))
            self._align(1 if self._host.bitwise_and(ALIGN - 1).any() else ALIGN)
            self._addresses.send(lambda host: host.copy_(self._host))
            self._last = (weights, grads)
        self._number([groups[group][name] for group, name in self._numbers])
        return True

    def _number(self, values: list[Any]) -> None:
        """Send the groups' numbers and the counts, if they changed."""
        on_device = []
        if not set(map(type, values)) <= {float}:
            on_device = [(place, value) for place, value in enumerate(values) if _on_device(value)]
            for place, _ in on_device:
                values[place] = _ELSEWHERE
            values = list(map(float, values))
        changed = values != self._values
        if changed:
            self._next_numbers.copy_(torch.tensor([*values, 1.0], dtype=torch.float64)[self._given])
            self._values = values
        if self._counts_too:
            self._next_counts.copy_(self._counted if self._counts is None else self._counted[self._counts])
        if changed or self._counts_too:
            self._floats.send(lambda host: host.copy_(self._next))
        for place, value in on_device:
            for index in (self._given == place).nonzero().flatten().tolist():
                self._floats.device[index].copy_(value)

    def _align(self, align: int) -> None:
        for run in self.runs:
            for stack in run.stacks:
                if stack.align != align:
                    stack.align, self.graph, self.steps = align, None, 0

    def step(self, graphs: bool, outside: Tensor | None) -> None:
        """Run all kernels on what was fed. `outside` is the flag of gradients that others step, if there are any."""
        if outside is not None:
            self._outside.copy_(outside)
        if self.noncontiguous:
            torch._foreach_copy_(self.stand_ins, self.noncontiguous)
        due = graphs and self.device.type == "cuda" and self.graph is None and self.steps >= _EAGER
        if due and not torch.cuda.is_current_stream_capturing():
            self._capture()
        if self.graph is not None:
            self.graph()
        else:
            if self.steps == 0:
                with progress(f"compiling kernels for {self.device}"):
                    compile_ahead(self._launch, self.device)
            self._launch()
        if self.noncontiguous:
            torch._foreach_copy_(self.noncontiguous, self.stand_ins)
        self.steps += 1
        self._count(1.0)

    def undo(self) -> None:
        """Take back the count of a step in which the device wrote nothing."""
        self._count(-1.0)

    def _count(self, more: float) -> None:
        if self._counts is not None:
            self._counted.index_add_(0, self._counts, self._ones, alpha=more)
        elif self._counts_too:
            self._counted.add_(self._ones, alpha=more)  # a number in its place takes three times as long

    def _capture(self) -> None:
        """Record all launches as a graph, or say why steps go on without. Nothing is run."""
        try:
            self.graph = self._lanes.recorded(self._turns(), self._look)
        except RuntimeError as error:
            self.steps = -(2**62)
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            warnings.warn(f"no CUDA graph could be made of the step, which is slower without: {reason}", stacklevel=2)

    def _launch(self) -> None:
        self._look()
        self._lanes.run(self._turns())

    def _look(self) -> None:
        """Raise the flags of gradients that aren't finite; under a policy that moves nothing then, tell the kernels."""
        if self._policy == "ignore":
            return
        found = self.flags.found
        found.zero_()
        start = 0
        for stack in (stack for run in self.runs for stack in run.stacks if stack.live):
            stack.look(found[start : start + stack.live], self._policy == "zero")
            start += stack.live
        any_wrong = found.amax() + self._outside
        found[-1:].copy_(any_wrong)
        if self._policy != "zero":
            self._floats.device.index_copy_(0, self._free, (any_wrong == 0).double().expand(len(self._free)))

    def _turns(self) -> list[FusedRun]:
        return [turn for run in self.runs for turn in run.turns()]


def _plan(bucket: Bucket) -> Any:
    assert bucket.fused is not None
    return bucket.fused


def _on_device(value: object) -> bool:
    return isinstance(value, Tensor) and value.device.type != "cpu"


def _live_stack(update: Update, bucket: Bucket, place: int, members: Mapping[str, Tensor], store: Store) -> LiveStack:
    chains = _plan(bucket).chains
    start = sum(chains[:place])
    every = bucket.names[start : start + chains[place]]
    stack = LiveStack(update.entries[every[0]].shape, len(every), update.compute_dtype)
    for slot, name in enumerate(every):
        if name in members and members[name].grad is not None:
            stack.slots.append(slot)
            stack.parameters.append(members[name])
    if stack.parameters:
        stack.compute_dtype = store.compute_dtype(stack.parameters[0])
        for name, kind in bucket.states:
            if kind == "count":
                stack.counts[name] = store.counts((bucket.name, place, name), stack)
            else:
                stack.names.append(name)
                stack.states.append([store.like(parameter, name, kind) for parameter in stack.parameters])
    return stack


def _tensor(numbers: array[int]) -> Tensor:
    """Of int64, with the array's memory."""
    return torch.frombuffer(numbers, dtype=torch.int64) if numbers else torch.zeros(0, dtype=torch.int64)
