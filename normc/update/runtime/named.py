"""A torch optimizer whose parameters are known by name, and its checkpoints matched by it. Needs torch alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor

from normc.update.runtime.holder import GradientHolder
from normc.update.runtime.rounding import SEED
from normc.update.runtime.run import Cores, Update

# Options of torch's optimizers that say nothing of the update, or that a loss says as well: what to do instead.
_OWN = "leave it out: how a planned update runs is in its generated code"
FOREIGN = {
    "maximize": "call backward on the negated loss: an update goes down",
    "betas": "give momentum and beta2 (normc recipes lists what each recipe has)",
    **dict.fromkeys(("foreach", "fused", "capturable", "differentiable"), _OWN),
}


class NamedOptimizer(GradientHolder):
    """Two parameter groups, matrices and the rest, each with `param_names` and the plan's hash.

    Never keeps a group, a parameter or an lr between steps: hosts replace all three.
    """

    cores: Cores
    _built = False
    # Of each parameter group, which of the update's it is. Those without parameters are left out: hosts trip over them.
    _places: tuple[int, ...]

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, Tensor]],
        update: Update,
        lr: float | Tensor | Mapping[str, float],
        compile: bool = True,
        **options: float | tuple[float, ...],
    ) -> None:
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

    def _rates(self, lr: float | Tensor | Mapping[str, float]) -> list[float | Tensor]:
        """Each group's lr: the same, or that of its recipe."""
        labels = self.update.labels or (self.update.recipe,) * len(self.update.defaults)
        if isinstance(lr, Mapping) and set(lr) != set(labels):
            self._fail(
                f"lr is given for {', '.join(sorted(lr))}", f"give one for each of {', '.join(dict.fromkeys(labels))}"
            )
        rates = [lr[label] if isinstance(lr, Mapping) else lr for label in labels]
        for rate in rates:
            if not float(rate) >= 0.0:
                self._fail(f"lr is {float(rate)}", "give a number of at least 0")
        return rates

    def _set_option(self, groups: list[dict[str, Any]], name: str, value: float | tuple[float, ...]) -> None:
        known = dict.fromkeys(key for defaults in self.update.defaults for key in defaults)
        if name not in known:
            fix = FOREIGN.get(name, f"known: {', '.join(['lr', *known])}")
            self._fail(f"there is no option {name!r}", fix)
        each = value if isinstance(value, tuple) else (value,) * len(groups)
        if len(each) != len(groups):
            self._fail(f"{name} is {value!r}", "give a number, or one for matrices and one for the rest")
        for group, defaults, own in zip(groups, self.update.defaults, each, strict=True):
            if name in defaults:
                group[name] = own

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
            name = self._name(item[0])
            if name in seen:
                continue
            seen.add(name)
            self._check_shape(name, item[1])
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

    def _dtype(self, parameter: Tensor) -> torch.dtype:
        """What a parameter's step is computed in."""
        return torch.promote_types(parameter.dtype, self.update.compute_dtype)

    def _kept_in(self, parameter: Tensor, kind: str) -> torch.dtype:
        """What a parameter's state of a kind is kept in."""
        return (self.update.state if kind == "like" else None) or self._dtype(parameter)

    def take(self, update: Update) -> None:
        """Take a plan's update: parameters move between the groups in place, states and group values stay.

        Groups that the plan leaves empty go, unless a scheduler counts on them; those it needs are added.
        """
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
        super().add_param_group(param_group)

    def __getstate__(self) -> dict[str, Any]:
        """As torch's, without the generated update, which is made again."""
        return {**super().__getstate__(), "_compile": self.cores.enabled, "_places": self._places}

    def __setstate__(self, state: dict[str, Any]) -> None:
        enabled = state.pop("_compile", None)
        super().__setstate__(state)
        if enabled is not None:  # a pickle or a copy; torch's load_state_dict comes by here too
            self.cores = Cores(enabled, self._warning())
            update = self._rebuilt()
            self._places = state.get("_places", tuple(range(len(self.param_groups))))
            self.update = update.grouped(self._places)
            for group in self.param_groups:  # an earlier version's hash was another
                group["plan"] = update.plan
            _part(self.param_groups)
            self._built = True


def _part(groups: list[dict[str, Any]]) -> None:
    """Give every group tensors of its own: an lr that two groups share would be scaled twice by a scheduler."""
    for group in groups:
        for key, value in group.items():
            if isinstance(value, Tensor):
                group[key] = value.detach().clone()
