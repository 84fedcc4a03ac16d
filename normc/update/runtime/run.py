"""What a generated update function sees of one step, and where its compiled cores are kept. Needs torch alone.

The source of this package is embedded in every exported update, so it imports nothing else of normc.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from normc.update.runtime.fused import Fused
from normc.update.runtime.progress import progress

T = TypeVar("T")

# What wrappers put into parameter names.
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module", "module")


def bare(name: str) -> str:
    """A parameter's name without what wrappers put into it."""
    *path, own = name.split(".")
    return ".".join([*(part for part in path if part not in WRAPPERS), own])


@dataclass(frozen=True)
class Bucket:
    """Parameters that one generated function updates.

    `states` are (name, kind) of what is kept per parameter: "like" it in shape, a "count", or of a shape ("3x64");
    "codes" in 8 bits, whose "scales" come next; of kind "grad" it is the gradient, which is never zeroed. If `pieces`
    isn't 0, parameters come one after another, at most so many entries at a time.
    """

    name: str
    step: Callable[[Run], None]
    group: int
    states: tuple[tuple[str, str], ...]
    names: tuple[str, ...]
    pieces: int = 0
    fused: Fused | None = None

    @property
    def decomposes(self) -> bool:
        """Whether its function looks for eigenpairs of factors, and warns where there are none."""
        return any(name.startswith("factor_") for name, _ in self.states)

    @property
    def apart(self) -> bool:
        """Whether its function works on each parameter by itself: it calls nothing that takes a stack of them."""
        code = getattr(self.step, "__code__", None)
        return code is not None and "core" not in code.co_names

    @property
    def holds_gradients(self) -> bool:
        """Whether gradients stay between steps, as the average itself."""
        return any(kind == "grad" for _, kind in self.states)


@dataclass(frozen=True)
class Entry:
    """What the update knows of one parameter. `what` tells two plans' rows apart; `idle` rows get no update: those that
    are `frozen` as well, by a mass of 0, whatever gradient they have.
    """

    shape: tuple[int, ...]
    group: int
    what: str
    idle: bool = False
    frozen: bool = False


@dataclass(frozen=True)
class Update:
    """A whole generated update; `ready` is False for a stand-in.

    `compute_dtype` is the least dtype of state and arithmetic.

    `defaults` has the values of each parameter group, `labels` the recipe that each is of. `without` are rewrites that
    were left out, among them "lanes" and "graph", which are of the running. `state` is the dtype of states shaped like
    their parameter, None that of the arithmetic; `stochastic` says how bf16 is rounded to; with `offload` states are
    kept in the host's memory. `reads` are the values that
    the functions of each group read; none where it isn't known. `options` are those of the recipe that differ from
    their default.
    """

    plan: str
    recipe: str
    defaults: tuple[Mapping[str, float], ...]
    entries: Mapping[str, Entry]
    aliases: Mapping[str, str]
    buckets: tuple[Bucket, ...]
    compute_dtype: torch.dtype = torch.float32
    ready: bool = True
    labels: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    state: torch.dtype | None = None
    stochastic: bool = False
    reads: tuple[tuple[str, ...], ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    offload: bool = False

    @property
    def idle(self) -> tuple[str, ...]:
        """Parameters that nothing updates."""
        return tuple(name for name, entry in self.entries.items() if entry.idle and not entry.frozen)

    def name_of(self, given: str) -> str | None:
        """The plan's name of a parameter that may be known by an alias, or wear wrappers' prefixes on either side."""
        for name in (given, bare(given)):
            if name in self.entries:
                return name
            if name in self.aliases:
                return self.aliases[name]
        return self._bare.get(bare(given))

    @cached_property
    def _bare(self) -> Mapping[str, str]:
        """Names by what they are without wrappers' prefixes, where plans of a wrapped model hold these."""
        known = {**{name: name for name in self.entries}, **self.aliases}
        return {bare(name): own for name, own in known.items() if bare(name) not in known}

    def grouped(self, places: Sequence[int]) -> Update:
        """This update for an optimizer that has, in this order, these of its parameter groups alone."""
        if tuple(places) == tuple(range(len(self.defaults))):
            return self
        at = {index: place for place, index in enumerate(places)}
        return replace(
            self,
            defaults=tuple(self.defaults[index] for index in places),
            labels=tuple(self.labels[index] for index in places) if self.labels else (),
            reads=tuple(self.reads[index] for index in places) if self.reads else (),
            entries={name: replace(entry, group=at.get(entry.group, 0)) for name, entry in self.entries.items()},
            buckets=tuple(replace(bucket, group=at[bucket.group]) for bucket in self.buckets if bucket.group in at),
        )


@dataclass
class Run:
    """One bucket's share of a step, as its generated function sees it. Lists hold the parameters with a gradient."""

    weights: list[Tensor]
    grads: list[Tensor]
    states: dict[str, list[Tensor]]
    live: list[int]
    shapes: list[tuple[int, ...]]
    group: dict[str, Any]
    cores: Cores

    def number(self, name: str) -> float:
        """A value of the parameter group, as it is now."""
        return float(self.group[name])

    def tensor(self, name: str) -> Tensor:
        """A value of the parameter group as a 0-d tensor, so that no compiled function depends on it."""
        return torch.tensor(self.number(name), device=self.weights[0].device, dtype=self.weights[0].dtype)

    def full(self, values: list[Tensor], alike: bool = False) -> list[Tensor]:
        """`values` with zeros for the parameters that have no gradient: stacks keep their size.

        `alike` values are all of one shape, which is not their parameters'.
        """
        if len(self.live) == len(self.shapes):
            return values
        every: list[Tensor] = [values[0].new_zeros(values[0].shape if alike else shape) for shape in self.shapes]
        for index, value in zip(self.live, values, strict=True):
            every[index] = value
        return every

    def pick(self, values: Iterable[T]) -> list[T]:
        """Of one value a parameter, those of the parameters that have a gradient: the inverse of `full`."""
        every = list(values)
        return every if len(self.live) == len(every) else [every[index] for index in self.live]

    def core(self, function: Callable[..., tuple[Tensor, ...]], *stacks: Tensor) -> tuple[Tensor, ...]:
        """Call a function of stacks, compiled where that works."""
        return self.cores.call(function, stacks)


def products_dominate(function: Callable[..., Any], stacks: tuple[Tensor, ...]) -> bool:
    """Whether a function's time goes into matrix products, which compiling for seconds makes no faster: on a CPU, or
    in kernels of their own.
    """
    names = function.__code__.co_names
    return "newton_schulz" in names or ("polar" in names and stacks[0].device.type == "cpu")


def _shapes(stacks: tuple[Tensor, ...]) -> list[str]:
    """`12 x 64 x 64` of each stack's shape, once."""
    return list(dict.fromkeys(" x ".join(map(str, stack.shape)) or "a number" for stack in stacks))


@dataclass
class Cores:
    """Compiled cores by function. Where the compiler can't work, the same functions run as they are, with a warning.

    `enabled` is whether cores are compiled. None compiles them except on a CPU, where compiling takes seconds and saves
    little (docs/performance.md). It never depends on time: compiled code rounds otherwise, and steps have to repeat.
    """

    enabled: bool | None = None
    category: type[Warning] = UserWarning
    compiled: dict[Callable[..., Any], Callable[..., Any]] = field(default_factory=dict)

    def call(self, function: Callable[..., tuple[Tensor, ...]], stacks: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The function's outputs."""
        if function in self.compiled:
            return self.compiled[function](*stacks)  # type: ignore[no-any-return]  # torch.compile keeps no types
        enabled = stacks[0].device.type != "cpu" if self.enabled is None else self.enabled
        if not enabled or products_dominate(function, stacks):
            return function(*stacks)
        compiled = torch.compile(function, dynamic=False, fullgraph=True)
        try:
            with progress(f"compiling {function.__name__} for {' and '.join(_shapes(stacks))}"):
                result: tuple[Tensor, ...] = compiled(*stacks)
        except (torch._dynamo.exc.TorchDynamoException, RuntimeError, OSError) as error:
            self.enabled = False
            self.compiled.clear()
            result = function(*stacks)  # a mistake of the function's own is raised here, as it is
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            text = f"torch.compile does not work here, so the same update runs uncompiled, slower: {reason}"
            warnings.warn(text, self.category, stacklevel=2)
            return result
        self.compiled[function] = compiled
        return result
