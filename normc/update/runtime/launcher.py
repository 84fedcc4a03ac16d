"""The fused buckets of an optimizer: addresses and numbers go to the device, then all kernels run, from the third step
on as a CUDA graph. Needs torch alone.
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
from normc.update.runtime.fused import FusedRun, Lanes, Stack, lanes_of
from normc.update.runtime.native import MANY, Addresses, background
from normc.update.runtime.run import Bucket, Update
from normc.update.runtime.tables import Feed, Held, Line, Store, look, same

_EAGER = 2  # steps before a graph is made of them: kernels compile in the first
_LAYOUTS = 8  # kept, with their graphs
_ELSEWHERE = float("nan")  # stands for a number that is on the device, and equals no other
ALIGN = 16  # bytes that addresses are multiples of, or 1 where some aren't


class Layout:
    """What the steps with one set of gradients need: tables on the device, runs that read them, and their graph.

    Rows of parameters that are missing, or have no gradient, are left out.
    """

    def __init__(self, update: Update, buckets: Sequence[Bucket], members: Mapping[str, Tensor], store: Store) -> None:
        self.buckets: list[Bucket] = []
        self.lines: list[list[Line]] = []
        for bucket in buckets:
            lines = [_line(update, bucket, place, members, store) for place in range(len(_plan(bucket).chains))]
            if any(line.parameters for line in lines):
                self.buckets.append(bucket)
                self.lines.append(lines)
        flat = [line for lines in self.lines for line in lines if line.parameters]
        self._flat = flat
        self.device = flat[0].parameters[0].device
        self.originals = [parameter for line in flat for parameter in line.parameters]
        owners: dict[str, list[Tensor]] = {}
        for line in flat:
            for name in (*line.names, *line.counts):
                owners.setdefault(name, []).extend(line.parameters)
        self.strange = [p for p in self.originals if not p.is_contiguous()]
        stand_ins = {id(p): p.detach().contiguous() for p in self.strange}
        self.stand_ins = [stand_ins[id(p)] for p in self.strange]
        for line in flat:
            line.parameters = [stand_ins.get(id(p), p) for p in line.parameters]
        self.dtypes = [p.dtype for p in self.originals]
        self.shapes = [p.shape for p in self.originals]
        self.mixed = any(len({parameter.dtype for parameter in line.parameters}) > 1 for line in flat)
        self.held = Held(store.state, owners)
        self._weights = [parameter for line in flat for parameter in line.parameters]
        self._table()
        given = [(bucket.group, name) for bucket in self.buckets for name in _plan(bucket).numbers]
        self._numbers = list(dict.fromkeys(given))
        self._given = torch.tensor([self._numbers.index(number) for number in given], dtype=torch.int64)
        self._values: list[float] = []
        counts = [place for line in flat for places in line.counts.values() for place in places]
        self._counted = store.counted
        every = counts == list(range(len(store.counted)))
        self._counts = None if every or not counts else torch.tensor(counts, dtype=torch.int64)
        self._ones = torch.ones(len(counts))
        self._counts_too = len(counts) > 0
        self._next = torch.zeros(len(given) + len(counts), dtype=torch.float64)
        self._next_numbers, self._next_counts = self._next.split([len(given), len(counts)])
        self._floats = Feed(len(given) + len(counts), torch.float64, self.device)
        self.runs = self._runs()
        most = max(turn.held() for turn in self._turns())
        self._lanes = Lanes(self.device, lanes_of(most) if "lanes" not in update.without else 1)
        self.steps = 0
        self.graph: Callable[[], None] | None = None

    def _table(self) -> None:
        """The table of addresses on the host, without those of weights and gradients, whose places it notes."""
        table, weights, grads = array("q"), array("q"), array("q")
        for line in self._flat:
            live = len(line.parameters)
            weights.extend(range(len(table), len(table) + live))
            grads.extend(range(len(table) + live, len(table) + 2 * live))
            table.extend([0] * (2 * live))
            for own in line.states:
                table.extend(map(_ADDRESS, own))
        self._host = _tensor(table)
        self._of_weights, self._of_grads = _tensor(weights), _tensor(grads)
        self._addresses = Feed(len(table), torch.int64, self.device)
        self._last: tuple[Any, Any] = ([], [])
        self.kinds: bytes | None = None

    def _runs(self) -> list[FusedRun]:
        found, ints, number, floats = [], 0, 0, len(self._given)
        for bucket, lines in zip(self.buckets, self.lines, strict=True):
            plan, stacks = _plan(bucket), []
            for place, line in enumerate(lines):
                live, roles = len(line.parameters), len(plan.roles)
                table = self._addresses.device[ints : ints + roles * live].view(roles, live)
                counts = self._floats.device[floats : floats + len(plan.counts) * live].view(len(plan.counts), live)
                ints, floats = ints + roles * live, floats + len(plan.counts) * live
                values = [[values[slot] for slot in line.slots] for values in (plan.rows[place] if plan.rows else ())]
                kinds = [own[0].dtype for own in (line.parameters, line.parameters, *line.states) if own]
                rows = torch.tensor(values, dtype=torch.float64, device=self.device).view(len(values), live)
                slots = torch.tensor(line.slots, dtype=torch.int32, device=self.device)
                stack = Stack(
                    line.shape, line.total, live, live, table, slots, counts, rows, tuple(kinds), line.wide, ALIGN
                )
                stacks.append(stack)
            own = self._floats.device[number : number + len(plan.numbers)]
            number += len(plan.numbers)
            found.append(FusedRun(plan, own, stacks))
        return found

    def fits(self) -> bool:
        """Whether parameters still are as they were when the tables were made."""
        strange = [p for p in self.originals if not p.is_contiguous()]
        shapes = [p.shape for p in self.originals]
        return shapes == self.shapes and same([*map(_DTYPE, self.originals), *strange], [*self.dtypes, *self.strange])

    def feed(self, grads: Addresses, weights: Addresses | None, groups: Sequence[Mapping[str, Any]]) -> bool:
        """Send addresses and numbers, if they changed. False, with nothing sent, if parameters have other memory and
        don't fit now.
        """
        if weights is None or self.strange:
            weights = list(map(_ADDRESS, self._weights))
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
            self._next_numbers.copy_(torch.tensor(values, dtype=torch.float64)[self._given])
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

    def step(self, graphs: bool) -> None:
        """Run all kernels on what was fed."""
        if self.strange:
            torch._foreach_copy_(self.stand_ins, self.strange)
        due = graphs and self.device.type == "cuda" and self.graph is None and self.steps >= _EAGER
        if due and not torch.cuda.is_current_stream_capturing():
            self._capture()
        if self.graph is not None:
            self.graph()
        else:
            if self.steps == 0:
                compile_ahead(self._launch, self.device)
            self._launch()
        if self.strange:
            torch._foreach_copy_(self.strange, self.stand_ins)
        self.steps += 1
        if self._counts is not None:
            self._counted.index_add_(0, self._counts, self._ones)
        elif self._counts_too:
            self._counted.add_(1.0)

    def _capture(self) -> None:
        """Record all launches as a graph, or say why steps go on without. Nothing is run."""
        try:
            self.graph = self._lanes.recorded(self._turns())
        except RuntimeError as error:
            self.steps = -(2**62)
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            warnings.warn(f"no CUDA graph could be made of the step, which is slower without: {reason}", stacklevel=2)

    def _launch(self) -> None:
        self._lanes.run(self._turns())

    def _turns(self) -> list[FusedRun]:
        return [turn for run in self.runs for turn in run.turns()]


_GRAD: Callable[[Tensor], Tensor | None] = attrgetter("grad")
_ADDRESS: Callable[[Tensor], int] = Tensor.data_ptr
_DTYPE: Callable[[Tensor], torch.dtype] = attrgetter("dtype")


def _plan(bucket: Bucket) -> Any:
    assert bucket.fused is not None
    return bucket.fused


def _on_device(value: object) -> bool:
    return isinstance(value, Tensor) and value.device.type != "cpu"


def _line(update: Update, bucket: Bucket, place: int, members: Mapping[str, Tensor], store: Store) -> Line:
    chains = _plan(bucket).chains
    start = sum(chains[:place])
    every = bucket.names[start : start + chains[place]]
    line = Line(update.entries[every[0]].shape, len(every), update.wide)
    for slot, name in enumerate(every):
        if name in members and members[name].grad is not None:
            line.slots.append(slot)
            line.parameters.append(members[name])
    if line.parameters:
        line.wide = store.wide(line.parameters[0])
        for name, kind in bucket.states:
            if kind == "count":
                line.counts[name] = store.counts((bucket.name, place, name), line)
            else:
                line.names.append(name)
                line.states.append([store.like(parameter, name) for parameter in line.parameters])
    return line


class Launcher:
    """Steps an optimizer's fused buckets. Layouts are kept by which parameters have gradients."""

    def __init__(self, update: Update, buckets: Sequence[Bucket], members: Mapping[str, Tensor], store: Store) -> None:
        self._update, self._buckets, self._store = update, buckets, store
        self.members, self.state = members, store.state
        self._names = [name for bucket in buckets for name in bucket.names if name in members]
        self._parameters = [members[name] for name in self._names]
        self._layouts: dict[tuple[int, ...], Layout] = {}
        self.native = background(len(self._parameters) >= MANY)

    def _check(self, check: Callable[[str, Tensor], object]) -> None:
        for name, parameter in zip(self._names, self._parameters, strict=True):
            if parameter.grad is not None:
                check(name, parameter)

    def step(self, groups: Sequence[Mapping[str, Any]], graphs: bool, check: Callable[[str, Tensor], object]) -> bool:
        """One step of all fused buckets. `check` fails on a gradient that no update can take. False, with nothing done,
        for stacks of several dtypes.
        """
        loops = self.native.loops
        looked = None if loops is None else loops.look(self._parameters)
        try:
            without, kinds, weights, addresses = looked or look(self._parameters)
        except RuntimeError:  # of gradients that have no memory of their own
            self._check(check)
            raise
        if not addresses:
            return True
        for _ in range(2):
            layout = self._layouts.get(without)
            if layout is None or not layout.held.still(loops):
                self._check(check)
                while len(self._layouts) >= _LAYOUTS:
                    self._layouts.pop(next(iter(self._layouts)))
                layout = self._layouts[without] = Layout(self._update, self._buckets, self.members, self._store)
            if layout.mixed:
                return False
            if kinds is None or kinds != layout.kinds:
                grads: list[Any] = list(map(_GRAD, layout.originals))
                if all(map(Tensor.is_contiguous, grads)) and same(list(map(_DTYPE, grads)), layout.dtypes):
                    layout.kinds = kinds
                else:  # As kernels read them, and kept until these are under way.
                    grads = [grad.to(dtype).contiguous() for grad, dtype in zip(grads, layout.dtypes, strict=True)]
                    addresses = list(map(_ADDRESS, grads))
            if layout.feed(addresses, weights, groups):
                layout.step(graphs and "graph" not in self._update.without)
                return True
            self._layouts.clear()
        raise AssertionError("tables made anew fit")


def _tensor(numbers: array[int]) -> Tensor:
    """Of int64, with the array's memory."""
    return torch.frombuffer(numbers, dtype=torch.int64) if numbers else torch.zeros(0, dtype=torch.int64)
