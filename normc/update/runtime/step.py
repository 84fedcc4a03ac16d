"""The step of a generated update. Needs torch alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from importlib import import_module
from types import MappingProxyType
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor

from normc.update.kernels.language import runs_kernels
from normc.update.runtime.faults import clean, listed
from normc.update.runtime.judging import JudgingOptimizer
from normc.update.runtime.launcher import Launcher
from normc.update.runtime.native import Loops
from normc.update.runtime.rounding import SEED
from normc.update.runtime.run import Bucket, Update
from normc.update.runtime.tables import Store, same

_TENSORS = (Tensor, torch.nn.Parameter)


class Ranked(Protocol):
    """A step over ranks, which a file that is exported for one process hasn't."""

    @property
    def names(self) -> Sequence[str]:
        """The parameters that are stepped."""

    @property
    def shares(self) -> bool:
        """Whether a rank steps anything for others."""

    def align(self, live: Sequence[str]) -> None:
        """Lay gradients as their parameters lie."""

    def agreed(
        self, live: Sequence[str], gradients: Sequence[Tensor], judged: bool, fail: Callable[[str, str], NoReturn]
    ) -> list[str]:
        """Whose gradients aren't finite, on any rank. Fails where ranks have gradients of other parameters."""

    def step(
        self,
        live: Sequence[str],
        groups: Sequence[Mapping[str, Any]],
        places: Sequence[int],
        fail: Callable[[str, str], NoReturn],
    ) -> None:
        """Step the parameters `live`. Fails where a rank is gone."""


class UpdateOptimizer(JudgingOptimizer):
    """Steps all buckets: by their kernels where these run, else by their functions on lists of tensors."""

    _launcher: Launcher | None = None
    _members: Mapping[str, Tensor] = MappingProxyType({})
    _seen: tuple[Update | None, list[tuple[list[str], list[Tensor]]]] = (None, [])
    _idle: Sequence[tuple[str, Tensor]] = ()
    _fused: Sequence[Bucket] = ()
    _others: Sequence[Bucket] = ()
    _device_types: Sequence[str] = ()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """As torch's, which is also how a state_dict gets in; tables of the states before are of no more use."""
        super().__setstate__(state)
        self._launcher = None

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient. Returns the closure's loss."""
        given = (self,) if closure is None else (self, closure)
        if closure is not None and not callable(closure):
            self._fail(
                f"the closure is a {type(closure).__name__}", "call step() alone, or give a function of the loss"
            )
        if torch.compiler.is_compiling():  # a whole training step: this one's code is compiled already
            return _by_itself(*given)
        return (_observed if _listened(self) else UpdateOptimizer._update_all)(*given)

    step.hooked = True  # type: ignore[attr-defined]  # torch needn't wrap it in hooks

    def _update_all(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.set_grad_enabled(False):  # half the time of a no_grad
            self._update_unrecorded()
        return loss

    def _update_unrecorded(self) -> None:
        if not self.update.ready:
            self._fail("step() before the plan is known", "run the model forward once before the first step()")
        members = self._by_names()
        autocast = [kind for kind in self._device_types if torch.is_autocast_enabled(kind)]
        if not autocast:
            self._update_members(members)
            return
        with ExitStack() as off:  # a step's products are in dtypes of its own
            for kind in autocast:
                off.enter_context(torch.autocast(kind, enabled=False))
            self._update_members(members)

    def _update_members(self, members: Mapping[str, Tensor]) -> None:
        """Step all parameters that have a gradient, or none: what can't be stepped is said before anything moves."""
        if self._pending is not None:
            self._settle()
        if self._owed:
            self._pay()
        if self._changed():
            members = self._by_names()
        if self._idle and (woken := self._woken()):
            self._wake(woken)
            members = self._by_names()
        ranked = self._over_ranks(members)
        if ranked is not None:
            self._step_over_ranks(ranked, members)
            return
        shares = self._shares(self._others, members) if self._others else []
        found = self._found(shares)
        launched = bool(self._fused) and self._launch(self._fused, members, found)
        if self._fused and not launched:
            shares = [*self._shares(self._fused, members), *shares]
            found = self._found(shares)
        layout = self._launcher.last if launched and self._launcher is not None else None
        if layout is None and not shares:
            self._tell_nothing_trains()
            return
        finite = self._judged(shares, found, layout)
        if finite is False:
            return
        for share in shares:
            self._step(share, None if finite is True else finite)
        if self.update.stochastic:
            for group in self.param_groups:
                group[SEED] += 1

    def _over_ranks(self, members: Mapping[str, Tensor]) -> Ranked | None:
        """How parameters that lie over ranks are stepped; None where none does."""
        return None

    def _step_over_ranks(self, ranked: Ranked, members: Mapping[str, Tensor]) -> None:
        """As any step: all ranks step, or none."""
        live = [name for name in ranked.names if members[name].grad is not None]
        ranked.align(live)
        gradients = [self._gradient(name, members[name]) for name in live]
        wrong = ranked.agreed(live, gradients, self._policy != "ignore", self._fail)
        if wrong:
            self._told_of(wrong)
            if self._policy == "raise":
                self._raise(wrong, "is")
            if self._policy != "zero":
                return
            clean(gradients)
        holding = [name for bucket in self.update.buckets if bucket.holds_gradients for name in bucket.names]
        held = [name for name in live if name in holding]
        if held:
            self._check_held(held, [members[name] for name in held], [members[name].grad for name in held])  # type: ignore[misc]
        ranked.step(live, self.param_groups, self._places, self._fail)
        if held:
            self._watch_held(held, [members[name] for name in held])

    def _changed(self) -> bool:
        """Whether parameters were replaced by those that the model has now. Nothing is known of a model here."""
        return False

    def _tell_nothing_trains(self) -> None:
        """Say once that a step found no gradient."""
        if any(not entry.idle for entry in self.update.entries.values()):
            text = "no parameter of the optimizer has a gradient: step() has changed nothing"
            fix = "call backward() before it; make the optimizer after what replaces the model's parameters"
            self._tell("nothing", f"{text}\n  fix: {fix}")

    def _woken(self) -> list[str]:
        """What has a gradient that the plan knows nothing of."""
        return [name for name, parameter in self._idle if parameter.grad is not None and _moves(parameter.grad)]

    def _wake(self, names: Sequence[str]) -> None:
        """Gradients have come to parameters that the plan has no update for."""
        self._refuse_gradient(names, "and this file holds no model to plan again", "export a plan that reaches it")

    def _refuse_gradient(self, names: Sequence[str], why: str, fix: str) -> NoReturn:
        self._fail(
            f"{listed(names)} has a gradient, but the plan says that none reaches it, {why}",
            f"{fix}; or freeze it: requires_grad_(False), and grad = None",
        )

    def _by_names(self) -> Mapping[str, Tensor]:
        """Parameters by name; the same dict as long as the update is, and the groups hold the same ones."""
        if not self._as_seen():
            seen = [(list(group["param_names"]), list(group["params"])) for group in self.param_groups]
            members = {name: p for names, own in seen for name, p in zip(names, own, strict=True)}
            self._members, self._seen = members, (self.update, seen)
            self._idle = [(name, members[name]) for name in self.update.idle if name in members]
            self._fused = [bucket for bucket in self.update.buckets if bucket.fused is not None]
            self._others = [bucket for bucket in self.update.buckets if bucket.fused is None]
            self._device_types = sorted({parameter.device.type for parameter in members.values()} - {"meta"})
            self._salts = {name: place for place, name in enumerate(sorted(self.update.entries))}
        return self._members

    def _as_seen(self) -> bool:
        """Whether the update, the groups and their parameters are as `_by_names` saw them."""
        update, seen = self._seen
        groups = self.param_groups
        loops = None if self._launcher is None else self._launcher.native.loops
        if update is not self.update or len(groups) != len(seen):
            return False
        for group, (names, own) in zip(groups, seen, strict=True):
            if not (_equal(group["param_names"], names, loops) and same(group["params"], own, loops)):
                return False
        return True

    def _launch(self, buckets: Sequence[Bucket], members: Mapping[str, Tensor], found: Tensor | None) -> bool:
        """Step these buckets by their kernels; `found` are the others' flags. False where kernels don't run, or
        parameters are no plain tensors.
        """
        old = self._launcher
        if old is None or old.members is not members or old.state is not self.state:
            own = [members[name] for bucket in buckets for name in bucket.names if name in members]
            devices = {tensor.device for tensor in own}
            if len(devices) != 1 or not runs_kernels(devices.pop()) or any(type(p) not in _TENSORS for p in own):
                return False
            capacity = sum(len(bucket.names) for bucket in buckets for _, kind in bucket.states if kind == "count")
            store = Store(self._state, self.state, self._dtype, capacity)
            self._launcher = Launcher(self.update, buckets, members, store, self._policy)
        assert self._launcher is not None
        outside = None if found is None else found[-1:]
        return self._launcher.step(self.param_groups, self.cores.enabled is not False, self._gradient, outside)

    @torch.no_grad()
    def observe_logits(self, largest: Mapping[str, Tensor]) -> None:
        """Say the largest attention logit of each head since the last step, by the name of a query's or key's weight.

        Needs a recipe's option `qk_clip`, and a plan made with heads=True: numbers are for the plan's blocks of that
        parameter, in their order; 0 leaves one alone. Of several calls before a step, the largest count.
        """
        members = self._by_names()
        self._land()
        for given, logits in largest.items():
            name = self._name(given)
            kept = [pair for bucket in self.update.buckets if name in bucket.names for pair in bucket.states]
            kept = [(state, kind) for state, kind in kept if state.startswith("largest_logit")]
            states = [self._state(members[name], state, kind) for state, kind in kept]
            heads = [state.numel() for state in states]
            if not heads or sum(heads) != logits.numel():
                self._fail(
                    f"{logits.numel()} logits were given for the {sum(heads)} heads of {name!r}",
                    "plan with heads=True and the option qk_clip, and give one for each block of the parameter",
                )
            for state, part in zip(states, logits.detach().flatten().split(heads), strict=True):
                state.copy_(torch.maximum(state, part.to(state)))


_by_itself = getattr(torch, "_disable_dynamo", lambda own: own)(UpdateOptimizer.step)
_observed = torch.optim.Optimizer.profile_hook_step(UpdateOptimizer._update_all)
_profiled: Callable[[], bool] = getattr(torch.autograd, "_profiler_enabled", lambda: True)
_everywhere = [
    getattr(import_module("torch.optim.optimizer"), f"_global_optimizer_{when}_hooks", {"unknown": None})
    for when in ("pre", "post")
]


def _listened(opt: UpdateOptimizer) -> bool:
    """Whether anyone has hooks around steps, or profiles them. What torch always does for them takes a quarter of the
    host's time.
    """
    own = (opt._optimizer_step_pre_hooks, opt._optimizer_step_post_hooks)
    return _profiled() or any(own) or any(_everywhere)


def _moves(gradient: Tensor) -> bool:
    """Whether a gradient says anything. One of zeros doesn't: some hosts add 0 times every parameter to a loss."""
    return gradient.layout is not torch.strided or bool(gradient.any())


def _equal(names: Sequence[str], known: list[str], loops: Loops | None) -> bool:
    return (loops is not None and loops.same(names, known)) or list(names) == known
