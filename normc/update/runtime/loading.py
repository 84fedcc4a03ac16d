"""Checkpoints of an optimizer whose parameters have names: read, checked, and only then taken. Needs torch alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from normc.update.runtime.codes import kept_as
from normc.update.runtime.named import NO_FLOAT, NamedOptimizer, told
from normc.update.runtime.rounding import SEED
from normc.update.runtime.run import Update
from normc.update.runtime.saved import HELD, OPTIONS, ROWS, Saved, differences, misfit, read_saved

_MOST = 8  # lines of an error
_NOTHING = "the checkpoint has nothing of it"


class LoadingOptimizer(NamedOptimizer):
    """Loads checkpoints by name, whatever the order, the wrappers and the dtype of the model that they are of."""

    # A checkpoint that came before the plan, whether all of it has to fit, and the values that groups got of it.
    _early: tuple[Saved, bool, list[dict[str, Any]]] | None = None

    def state_dict(self) -> dict[str, Any]:
        """As torch's, and what the plan says of each parameter (`rows`), the recipe's `options` where they differ from
        their default, and which states each parameter has (`held`).
        """
        state: dict[str, Any] = super().state_dict()
        if self.update.ready:
            state[ROWS] = {name: entry.what for name, entry in self.update.entries.items()}
            state[OPTIONS] = dict(self.update.options)
        elif self._early is not None:
            state |= self._early[0].about
        states = self._with_gradients()
        state[HELD] = {name: sorted(states[p]) for name, p in self._pairs() if states.get(p)}
        return state

    def load_state_dict(  # type: ignore[override]  # torch's returns nothing, and takes all or fails
        self, state_dict: dict[str, Any], strict: bool = True
    ) -> tuple[str, ...]:
        """Load a checkpoint by parameters' names; nothing is loaded of one that raises.

        States keep their own dtype, whatever the parameter's; group values that the checkpoint lacks stay. With
        `strict=False`, what fits is taken, and the rest is returned, a line each, and told in a warning.

        Raises where the checkpoint is of another plan (naming the rows and both values), lacks a parameter or a state,
        or has one of another name, shape or kind, and where no optimizer of normc wrote it. If the plan isn't known
        yet, `adopt` and the first forward check the rest.
        """
        self._land()  # what is replaced may be written to no more
        given: Any = dict(state_dict) if isinstance(state_dict, Mapping) else state_dict
        for hook in self._optimizer_load_state_dict_pre_hooks.values():
            changed = hook(self, given)
            given = given if changed is None else changed
        saved = read_saved(given, self._fail)
        left = dict.fromkeys(self._absent(saved), _NOTHING)
        if saved.plans is None and strict and not left:
            fix = "load one that an optimizer of normc wrote, or pass strict=False for the states that fit"
            self._fail("the checkpoint holds no plan: another optimizer wrote it", fix)
        left |= self._unfit(saved, self.update)
        self._judge(saved, left, strict)
        states = defaultdict(dict, self._states(saved, left))
        groups = [self._values(saved, index, group) for index, group in enumerate(self.param_groups)]
        self.__setstate__({"state": states, "param_groups": groups})
        self._early = None if self.update.ready else (saved, strict, [_values_of(group) for group in groups])
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)
        return tuple(f"{name}: {why}" if name else why for name, why in left.items())

    def take(self, update: Update) -> None:
        """As before; a checkpoint that came before the plan is held against it first."""
        if self._early is None:
            super().take(update)
            return
        saved, strict, given = self._early
        left = self._unfit(saved, update)
        self._judge(saved, left, strict)
        super().take(update)
        self._early = None
        # Before the plan, whose a group's values are could only be guessed. What was changed since stays.
        for index, (group, before) in enumerate(zip(self.param_groups, given, strict=False)):
            found = _values_of(self._values(saved, index, group))
            group.update({k: v for k, v in found.items() if k in before and _equal_values(group[k], before[k])})
        for name, parameter in self._pairs():
            if name in left:
                self.state.pop(parameter, None)
            elif parameter in self.state:
                kinds = self._kinds(update).get(name, {})
                self.state[parameter] = self._cast_all(parameter, self.state[parameter], kinds)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), **({"_early": self._early} if self._early is not None else {})}

    def _hashes(self) -> set[str]:
        """Hashes that earlier versions gave this plan."""
        return set()

    def _pairs(self) -> list[tuple[str, Tensor]]:
        return [pair for group in self.param_groups for pair in zip(group["param_names"], group["params"], strict=True)]

    @staticmethod
    def _kinds(update: Update) -> dict[str, dict[str, str]]:
        """Of every parameter, its states and their kinds."""
        return {
            name: {"gradient" if kind == "grad" else state: kind for state, kind in bucket.states}
            for bucket in update.buckets
            for name in bucket.names
        }

    def _absent(self, saved: Saved) -> list[str]:
        """Parameters that the checkpoint has nothing of. Those that nothing updates need nothing."""
        known = {self.update.name_of(name) for _, names in saved.groups for name in names}
        entries = self.update.entries
        return [name for name, _ in self._pairs() if name not in known and not entries[name].idle]

    def _unfit(self, saved: Saved, update: Update) -> dict[str, str]:
        """Of a checkpoint, what isn't the plan's, what the plan doesn't have, and states that can't be its."""
        found = differences(saved, update, self._hashes) if update.ready else {}
        kinds, held = self._kinds(update), saved.held
        holding = {name for name, p in self._pairs() if p.grad is not None and "gradient" in kinds.get(name, ())}
        for given in (name for _, names in saved.groups for name in names):
            name = update.name_of(given)
            if name is None:
                found[given] = "the plan has no such parameter"
                continue
            there, wanted = saved.states.get(given, {}), kinds.get(name, {})
            own = kept_as(there, wanted)
            if name in found or update.entries[name].idle or not update.ready:
                continue
            # Some hosts keep no list of what there was. A parameter without any state had no gradient yet; but an
            # average that this optimizer has must not be lost in silence.
            expected = held.get(given, ()) if held is not None else wanted if own or name in holding else ()
            shape = update.entries[name].shape
            problems = [f"the state {key!r} is gone" for key in expected if key not in own and key not in there]
            problems += [
                misfit(key, value, wanted[key], shape) if key in wanted else f"it has no state {key!r}"
                for key, value in own.items()
            ]
            if any(problems):
                found[name] = "; ".join(filter(None, problems))
        return found

    def _judge(self, saved: Saved, left: Mapping[str, str], strict: bool) -> None:
        """Raise for what can't be taken; warn, if it needn't be."""
        if not left:
            return
        lines = [f"\n    {name}: {why}" if name else f"\n    {why}" for name, why in left.items()]
        told = "".join(lines[:_MOST]) + (f"\n    and {len(lines) - _MOST} more" if len(lines) > _MOST else "")
        if not strict:
            self._tell(f"left{told}", f"of the checkpoint, {len(lines)} parts are left out{told}")
            return
        first, why = next(iter(left.items()))
        if why == _NOTHING:
            self._fail(f"the checkpoint has nothing of {first!r}", "load one of the same model, or pass strict=False")
        problem, fix = "the checkpoint doesn't fit", "load one that is whole, or pass strict=False to take what fits"
        if any(" -> " in line for line in left.values()):
            plans = ", ".join(sorted(plan[:16] for plan in (saved.plans or ()) if plan))
            problem = f"the checkpoint was written under plan {plans}, which is another plan than this one"
            fix = "compile with the plan and options that wrote it, or pass strict=False to take what fits"
        self._fail(problem + told, fix)

    def _states(self, saved: Saved, left: Mapping[str, str]) -> dict[Tensor, dict[str, Any]]:
        """The states that are taken, by parameter, in their own dtypes."""
        members, kinds, found = dict(self._pairs()), self._kinds(self.update), {}
        for given, own in saved.states.items():
            name = self.update.name_of(given)
            if name in members and name not in left:
                found[members[name]] = self._cast_all(members[name], own, kinds.get(name, {}))
        return found

    def _cast_all(self, parameter: Tensor, own: Mapping[str, Any], kinds: Mapping[str, str]) -> dict[str, Any]:
        """A parameter's states as they are kept."""
        return {key: self._cast(parameter, key, value, kinds) for key, value in kept_as(own, kinds).items()}

    def _cast(self, parameter: Tensor, key: str, value: Any, kinds: Mapping[str, str]) -> Any:
        """A state as it is kept. Before the plan is known, of unknown kinds."""
        kind = kinds.get(key, "count" if key == "step" else "grad" if key == "gradient" else "")
        if kind == "count" and isinstance(value, int | float | Tensor):
            return torch.as_tensor(value).detach().to(device="cpu", dtype=torch.float32).reshape(())
        if not isinstance(value, Tensor):
            return deepcopy(value)
        if kind == "grad":
            return value.detach().to(device=parameter.device)
        own = value.detach()
        own = own.to(self._kept_in(parameter, kind)) if own.is_floating_point() else own.contiguous()
        return self._at_home(parameter, own)

    def _values(self, saved: Saved, index: int, group: dict[str, Any]) -> dict[str, Any]:
        """A group with the values of the checkpoint's that shares most parameters with it."""
        names = set(group["param_names"])
        shared = [len(names & set(map(self.update.name_of, own))) for _, own in saved.groups]
        best = max(range(len(shared)), key=lambda place: (shared[place], place == index), default=None)
        values: Mapping[str, Any] = {} if best is None else saved.groups[best][0]
        if saved.plans is None:  # of another optimizer's values, those that this one has
            values = {key: value for key, value in values.items() if key in group}
        fixed = {"params": group["params"], "param_names": list(group["param_names"])}
        plan = self.update.plan or values.get("plan", "")
        seed = {SEED: values.get(SEED, group[SEED])} if SEED in group else {}
        taken = {key: deepcopy(value) for key, value in values.items() if key != SEED}
        for key in taken:
            if isinstance(group.get(key), int | float | Tensor) and not _is_number(taken[key]):
                self._fail(f"{key} is {told(taken[key])} in the checkpoint", "load one that is whole")
        return {**group, **taken, **fixed, "plan": plan, **seed}


def _values_of(group: Mapping[str, Any]) -> dict[str, Any]:
    return {key: deepcopy(value) for key, value in group.items() if key not in ("params", "param_names", "plan")}


def _is_number(value: object) -> bool:
    """Whether a group's value can be a finite number: an lr of NaN would spoil all weights."""
    if isinstance(value, Tensor):
        return value.numel() == 1 and not value.is_complex() and bool(value.isfinite().all())
    return isinstance(value, int | float) and -NO_FLOAT < value < NO_FLOAT


def _equal_values(here: Any, there: Any) -> bool:
    if isinstance(here, Tensor) or isinstance(there, Tensor):
        return isinstance(here, Tensor) and isinstance(there, Tensor) and torch.equal(here, there)
    return bool(here == there)
