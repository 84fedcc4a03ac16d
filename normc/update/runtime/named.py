"""A torch optimizer whose parameters are known by name, and its checkpoints matched by it. Needs torch alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NoReturn

import torch
from torch import Tensor

from normc.update.runtime.codes import CODES, SCALES
from normc.update.runtime.faults import POLICIES
from normc.update.runtime.holder import GradientHolder, unguarded
from normc.update.runtime.rounding import SEED
from normc.update.runtime.run import Cores, Update

# Options of torch's optimizers that say nothing of the update, or that a loss says as well: what to do instead. Hosts
# pass all of them; None and False ask for nothing.
_OWN = "leave it out: how a planned update runs is in its generated code"
FOREIGN = {
    "maximize": "call backward on the negated loss: an update goes down",
    "amsgrad": "leave it out: no recipe keeps the largest of its averages",
    "differentiable": "leave it out: a step is not part of autograd's graph",
    "betas": "give momentum and beta2 (normc recipes lists what each recipe has)",
    **dict.fromkeys(("foreach", "fused", "capturable"), _OWN),
}
# Values of groups that are averages' shares, from 0 to below 1; all others are at least 0.
SHARES = ("momentum", "beta2")
NO_FLOAT = 2.0**1023  # an int beyond it has no float


class NamedOptimizer(GradientHolder):
    """Two parameter groups, matrices and the rest, each with `param_names` and the plan's hash.

    Never keeps a group, a parameter or an lr between steps: hosts replace all three.
    """

    cores: Cores
    _built = False
    # Options as they were given: a plan that comes later is held against them.
    _given: Mapping[str, float | tuple[float, ...]] = MappingProxyType({})
    _policy: str = "raise"
    # Of each parameter group, which of the update's it is. Those without parameters are left out: hosts trip over them.
    _places: tuple[int, ...]

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, Tensor]],
        update: Update,
        lr: float | Tensor | Mapping[str, float],
        compile: bool | None = None,
        nonfinite: str = "raise",
        **options: float | tuple[float, ...],
    ) -> None:
        if nonfinite not in POLICIES:
            self._fail(f"nonfinite is {nonfinite!r}", f"give one of {', '.join(POLICIES)}")
        self._policy = nonfinite
        self._check_policy(update)
        self.update = update
        self.cores = Cores(compile, self._warning())
        groups = [self._group(index, rate) for index, rate in enumerate(self._rates(lr))]
        for name, value in options.items():
            self._set_option(groups, name, value)
        for name, parameter in self._resolve(named_parameters):
            group = groups[update.entries[name].group]
            group["params"].append(parameter)
            group["param_names"].append(name)
        shared = [name for name in update.defaults[0] if all(name in defaults for defaults in update.defaults)]
        self._given = dict(options)
        self._refuse_unread(update)
        defaults = {"lr": groups[0]["lr"], **{name: groups[0][name] for name in shared}}
        self._places = tuple(index for index, group in enumerate(groups) if group["params"]) or (0,)
        groups = [groups[index] for index in self._places]
        _part(groups)
        super().__init__(groups, defaults)
        self.update = update.grouped(self._places)
        self._built = True

    def _group(self, index: int, rate: float | Tensor) -> dict[str, Any]:
        """The update's parameter group of an index, as yet without parameters."""
        values = {"lr": rate, **self.update.defaults[index], **self._seeds()}
        return {"params": [], "param_names": [], "plan": self.update.plan, **values}

    def _fail(self, problem: str, fix: str) -> NoReturn:
        raise RuntimeError(f"{problem}\n  fix: {fix}")

    def _warning(self) -> type[Warning]:
        return UserWarning

    def _rebuilt(self) -> Update:
        """The update of an optimizer that comes out of a pickle."""
        self._fail(f"a {type(self).__name__} can't be unpickled", "make it anew and load its state_dict")

    def _seeds(self) -> dict[str, int]:
        """What a group has more if rounding is stochastic."""
        return {SEED: 0} if self.update.stochastic else {}

    def _check_policy(self, update: Update) -> None:
        """Fails where a step can't be left out: its gradient has spoiled the average by then."""
        if self._policy == "skip" and any(bucket.holds_gradients for bucket in update.buckets):
            fix = 'give nonfinite="zero", which counts such entries as zero, or another recipe'
            self._fail(f"{update.recipe} can't skip a step: gradients hold the average of all before", fix)

    def _rates(self, lr: float | Tensor | Mapping[str, float]) -> list[float | Tensor]:
        """Each group's lr: the same, or that of its recipe."""
        labels = self.update.labels or (self.update.recipe,) * len(self.update.defaults)
        if isinstance(lr, Mapping) and set(lr) != set(labels):
            self._fail(
                f"lr is given for {', '.join(map(str, lr)) or 'nothing'}",
                f"give one for each of {', '.join(dict.fromkeys(labels))}",
            )
        rates = [lr[label] if isinstance(lr, Mapping) else lr for label in labels]
        for rate in rates:
            self._check_number("lr", rate, math.inf)
        return rates

    def _check_number(self, name: str, value: object, end: float) -> None:
        """Fails on what isn't a number from 0 to below `end`."""
        if not _within(value, end):
            least = "a finite number of at least 0" if end == math.inf else f"a number from 0 to below {end:g}"
            self._fail(f"{name} is {told(value)}", f"give {least}")

    def _set_option(self, groups: list[dict[str, Any]], name: str, value: Any) -> None:
        known = dict.fromkeys(key for defaults in self.update.defaults for key in defaults)
        if name not in known and name in FOREIGN and (value is None or value is False):
            return
        if name not in known:
            fix = FOREIGN.get(name, f"known: {', '.join(['lr', *known])}")
            self._fail(f"there is no option {name!r}", fix)
        each = value if isinstance(value, tuple) else (value,) * len(groups)
        if len(each) != len(groups):
            self._fail(f"{name} is {value!r}", "give a number, or one for matrices and one for the rest")
        for group, defaults, own in zip(groups, self.update.defaults, each, strict=True):
            if name in defaults:
                whole = name not in SHARES or defaults[name] == 1.0  # of 1 an average is a sum (Shampoo's factors)
                self._check_number(
                    name, own, math.nextafter(1.0, 2.0) if whole and name in SHARES else math.inf if whole else 1.0
                )
                group[name] = own

    def _refuse_unread(self, update: Update) -> None:
        """Fails on a value that was given, is neither 0 nor the recipe's own, and that no function reads."""
        used = {bucket.group for bucket in update.buckets} if update.reads else ()
        read = {name for group in used for name in update.reads[group]}
        for name, value in self._given.items() if used else ():
            each = value if isinstance(value, tuple) else (value,) * len(update.defaults)
            for own, defaults in zip(each, update.defaults, strict=True):
                if name not in read and own and own != defaults.get(name, own):
                    self._fail(
                        f"no update of {update.recipe} reads {name}, which is {own}",
                        "leave it out, or take a recipe or an option that has a use for it",
                    )

    def _name(self, given: str) -> str:
        """The plan's name of a parameter that may be known by an alias, or wear wrappers' prefixes."""
        name = self.update.name_of(given)
        if name is None:
            self._fail(f"the plan has no parameter {given!r}", "plan again, or pass the planned model's parameters")
        return name

    def _resolve(self, named_parameters: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """(plan's name, parameter), each once; fails on a shape that differs, and if one is missing."""
        seen: set[str] = set()
        for item in named_parameters:
            if not isinstance(item, tuple):
                self._fail("parameters came without names", "pass model.named_parameters(), not model.parameters()")
            if len(item) != 2 or not isinstance(item[1], Tensor):
                self._fail(f"{item!r} is no name and parameter", "pass model.named_parameters()")
            name = self._name(item[0])
            if name in seen:
                continue
            seen.add(name)
            self._check_shape(name, item[1])
            if item[1].requires_grad:
                self._check_real(name, item[1])
            yield name, item[1]
        entries = self.update.entries
        missing = [name for name in entries if name not in seen and not (entries[name].frozen or entries[name].idle)]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            self._fail(f"no parameter was given for {missing[0]!r}{more}", "pass all of the planned model's parameters")

    def _check_shape(self, name: str, parameter: Tensor) -> None:
        shape = self.update.entries[name].shape
        if tuple(parameter.shape) == shape:
            return
        fix = "plan again with this model"
        if parameter.dim() == 1 and len(shape) > 1:
            fix = "its host flattened it (DeepSpeed ZeRO, FSDP1): use DDP, FSDP2, or FSDP1 with use_orig_params=True"
        self._fail(f"{name!r} has shape {tuple(parameter.shape)}, the plan says {shape}", fix)

    def _check_real(self, name: str, tensor: Tensor) -> None:
        if tensor.is_complex():
            self._fail(f"{name!r} is complex", "keep its real and imaginary part in a real parameter")

    def _dtype(self, parameter: Tensor) -> torch.dtype:
        """What a parameter's step is computed in."""
        return torch.promote_types(parameter.dtype, self.update.compute_dtype)

    def _kept_in(self, parameter: Tensor, kind: str) -> torch.dtype:
        """What a parameter's state of a kind is kept in."""
        if kind in (CODES, SCALES):
            return torch.int8 if kind == CODES else torch.float32
        return (self.update.state if kind == "like" else None) or self._dtype(parameter)

    def _at_home(self, parameter: Tensor, state: Tensor) -> Tensor:
        """A state where it is kept: beside its parameter, or on the host, where kernels read and write it in place."""
        if not self.update.offload:
            return state.to(parameter.device)
        state = state.cpu().contiguous()
        return state.pin_memory() if parameter.is_cuda else state

    def take(self, update: Update) -> None:
        """Take a plan's update: parameters move between the groups in place, states and group values stay.

        Groups that the plan leaves empty go, unless a scheduler counts on them; those it needs are added. Nothing has
        changed where it raises.
        """
        self._refuse_unread(update)
        self._check_policy(update)
        named = [
            pair for group in self.param_groups for pair in zip(group["param_names"], group["params"], strict=True)
        ]
        before, self.update = self.update, update
        try:
            placed = list(self._resolve(named))
        except BaseException:
            self.update = before
            raise
        members: dict[int, list[tuple[str, Tensor]]] = {}
        for name, parameter in placed:
            members.setdefault(update.entries[name].group, []).append((name, parameter))
        groups = dict(zip(self._places, self.param_groups, strict=True))
        added = {index: self._group(index, self.param_groups[0]["lr"]) for index in sorted(set(members) - set(groups))}
        kept = {index: group for index, group in groups.items() if index in members or "initial_lr" in group}
        for index, group in (kept | added).items():
            group["params"][:] = [parameter for _, parameter in members.get(index, ())]
            group["param_names"] = [name for name, _ in members.get(index, ())]
            group["plan"] = update.plan
        self._places = (*kept, *added)
        self.param_groups[:] = [*kept.values(), *added.values()]
        _part(self.param_groups)
        self.update = update.grouped(self._places)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Fails once the optimizer is built: the plan says what every parameter gets."""
        if self._built:
            fix = "plan the whole model; what has no gradient yet (requires_grad=False) is skipped until it has one"
            self._fail("parameters can't be added to an optimizer whose update is planned", fix)
        unguarded(torch.optim.Optimizer.add_param_group)(self, param_group)

    def __getstate__(self) -> dict[str, Any]:
        """As torch's, without the generated update, which is made again."""
        own = {"_places": self._places, "_policy": self._policy, "_given": dict(self._given)}
        return {**super().__getstate__(), "_compile": self.cores.enabled, **own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        whole = "_compile" in state
        enabled = state.pop("_compile", None)
        super().__setstate__(state)
        if whole:  # a pickle or a copy; torch's load_state_dict comes by here too
            self.cores = Cores(enabled, self._warning())
            update = self._rebuilt()
            self._places = state.get("_places", tuple(range(len(self.param_groups))))
            self.update = update.grouped(self._places)
            for group in self.param_groups:  # an earlier version's hash was another
                group["plan"] = update.plan
            _part(self.param_groups)
            self._built = True


def _within(value: object, end: float) -> bool:
    """Whether `value` is a number, or a real tensor of one, from 0 to below `end`."""
    if isinstance(value, Tensor):
        return value.numel() == 1 and not value.is_complex() and 0.0 <= float(value) < end
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 <= value < min(end, NO_FLOAT)


def told(value: object) -> str:
    """What `value` is, in a few words: Python prints no int of 4,300 digits, and a tensor over many lines."""
    if isinstance(value, int) and abs(value) >= NO_FLOAT:
        return "a huge number"
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) and value.dim() else repr(value)[:80]


def _part(groups: list[dict[str, Any]]) -> None:
    """Give every group tensors of its own: an lr that two groups share would be scaled twice by a scheduler."""
    for group in groups:
        for key, value in group.items():
            if isinstance(value, Tensor):
                group[key] = value.detach().clone()
