"""An optimizer that follows its model: parameters that were replaced, by others or by shards, are taken by name."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, Protocol
from weakref import finalize, ref

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.nn.parallel import DistributedDataParallel

from normc.metrics import MeasuredOptimizer


class Known(Protocol):
    """The model, as far as it is remembered."""

    def parameters(self) -> Mapping[str, Tensor] | None:
        """Those of the model as it now is, by all their names; None where it isn't known."""

    def gone(self, members: Mapping[str, Tensor]) -> bool:
        """Whether the model holds other tensors in place of some of these."""

    def parameter(self, name: str) -> Tensor | None:
        """One of them; None where the model isn't known, or has none of that name."""


class FollowingOptimizer(MeasuredOptimizer):
    """An optimizer with a plan, whose parameters are those that the model has now."""

    origin: Known | None = None
    # The parameters that `_changed` looks at in turn, and whether each has a gradient; of which members they are.
    _turn = 0
    _looked: Sequence[tuple[str, Tensor, bool]] = ()
    _of: Mapping[str, Tensor] | None = None
    # The process group of a model that is copied to every rank (DDP); each then steps a share for all. And DDP itself,
    # where it has wrapped the model since the optimizer was made.
    group: Any = None
    _wrapper: ref[DistributedDataParallel] | None = None

    def among(self, model: nn.Module) -> None:
        """Share the work out among the ranks that have copies of a model, now or once DDP wraps it."""
        if isinstance(model, DistributedDataParallel):
            self.group = model.process_group
        elif _among_ranks() or os.environ.get("WORLD_SIZE", "1") != "1":
            own, known = ref(self), ref(model)

            def notice(module: nn.Module, name: str, child: nn.Module | None) -> None:
                opt = own()
                if (
                    opt is not None
                    and child is not None
                    and child is known()
                    and isinstance(module, DistributedDataParallel)
                ):
                    opt._wrapper = ref(module)

            finalize(self, register_module_module_registration_hook(notice).remove)

    def _take_group(self) -> None:
        """Take the group of a DDP that has wrapped the model since."""
        wrapper = None if self._wrapper is None else self._wrapper()
        if wrapper is not None and self.group is None:
            self.group = wrapper.process_group
        self._wrapper = None

    def _changed(self) -> bool:
        """Look for one parameter in the model, another each step; at all of them where it is another now, or its
        gradient has come or gone. Who replaces a parameter may leave the old one its last gradient.
        """
        if self.origin is None:
            return False
        if self._of is not self._members:
            self._note()
        if not self._looked:
            return False
        if _among_ranks() and self.origin.gone(self._members):  # sharding may replace a few parameters of many
            self._note()
            return self._follow(self._members)
        self._turn = (self._turn + 1) % len(self._looked)
        name, parameter, had_gradient = self._looked[self._turn]
        now = self.origin.parameter(name)
        if (now is parameter or now is None) and (parameter.grad is not None) is had_gradient:
            return False
        self._note()
        return self._follow(self._members)

    def _note(self) -> None:
        """Note whether parameters have gradients."""
        members, entries = self._members, self.update.entries
        self._looked = [(name, p, p.grad is not None) for name, p in members.items() if not entries[name].idle]
        self._of = members

    def _follow(self, members: Mapping[str, Tensor]) -> bool:
        """Take the model's parameters in place of those that it no longer has, by name, with their states. NormcError
        where the plan has no row for what has a gradient.
        """
        now = None if self.origin is None else self.origin.parameters()
        if now is None:
            return False
        current = {id(parameter) for parameter in now.values()}
        own = {id(parameter): name for name, parameter in members.items()}
        replaced: dict[int, Tensor] = {}
        for given, parameter in now.items():
            name = self.update.name_of(given)
            old = None if name is None else members.get(name)
            if old is parameter or (id(parameter) in own and old is None):
                continue
            if id(parameter) in own and id(old) not in current:
                self._refuse_edit(f"{given!r} is now {own[id(parameter)]!r}, which the plan has another row for")
            cut = old is not None and id(old) not in current and _lies(parameter) != _lies(old)
            if id(parameter) in own or (parameter.grad is None and not cut):
                continue
            if old is None or id(old) in current:
                self._refuse_edit(f"{given!r} has a gradient, but wasn't in the model when it was planned")
            if parameter.shape != old.shape:
                self._refuse_edit(f"{given!r} is {tuple(parameter.shape)} now, the plan says {tuple(old.shape)}")
            replaced[id(old)] = parameter
        self._replace(replaced)
        if replaced:
            text = (
                f"{len(replaced)} parameters of the model were replaced: the optimizer has taken the new ones, by name"
            )
            self._tell("replaced", f"{text}\n  fix: make the optimizer after what replaces parameters")
        return bool(replaced)

    def _replace(self, replaced: Mapping[int, Tensor]) -> None:
        """Put parameters in the place of others, given by id, with their states. Of whole states that have to be cut,
        every rank keeps its own part.
        """
        kinds = {name: dict(bucket.states) for bucket in self.update.buckets for name in bucket.names}
        places = [
            (group["params"], place, old, replaced[id(old)], kinds.get(name, {}))
            for group in self.param_groups
            for place, (name, old) in enumerate(zip(group["param_names"], group["params"], strict=True))
            if id(old) in replaced
        ]
        states = [self._laid(old, new, kinds) for _, _, old, new, kinds in places]
        for (parameters, place, old, new, _), state in zip(places, states, strict=True):
            parameters[place] = new
            if state is not None:
                del self.state[old]
                self.state[new] = state

    def _laid(self, old: Tensor, new: Tensor, kinds: Mapping[str, str]) -> dict[str, Any] | None:
        """The old parameter's states, as the new one lies. None where there are none, or on another device."""
        state: dict[str, Any] | None = self.state.get(old)
        if not state or old.device != new.device:
            return None
        if _lies(old) == _lies(new):
            return state
        if _lies(old) is not None:
            self._fail(
                "parameters lie over ranks in another way than at the step before, and their states don't",
                "save a checkpoint, make model and optimizer anew, the optimizer last, and load it",
            )
        from normc.update.runtime.lying import laid_out

        return {name: laid_out(value, new, kinds.get(name, "count")) for name, value in state.items()}

    def _woken(self) -> list[str]:
        """As of any; of gradients that lie over ranks, all ranks say the same."""
        if not any(hasattr(parameter.grad, "placements") for _, parameter in self._idle):
            return super()._woken()
        from normc.update.runtime.agreeing import moving

        return moving({name: parameter.grad for name, parameter in self._idle if parameter.grad is not None})

    def _refuse_edit(self, problem: str) -> NoReturn:
        self._fail(problem, "call normc.compile again after the model is edited; or freeze it: requires_grad_(False)")


def _lies(parameter: Any) -> tuple[Any, Any] | None:
    """How a parameter lies over ranks; None for a plain tensor."""
    return (parameter.device_mesh, parameter.placements) if hasattr(parameter, "placements") else None


def _among_ranks() -> bool:
    """Whether parameters may be cut over ranks."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()
