"""The step of a generated update. Needs torch alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from importlib import import_module
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from normc.update.kernels.language import runs_kernels
from normc.update.runtime.faults import Pending, at_once, clean, flags, named
from normc.update.runtime.launcher import Launcher
from normc.update.runtime.loading import LoadingOptimizer
from normc.update.runtime.native import Loops
from normc.update.runtime.rounding import SEED, local, round_stochastically
from normc.update.runtime.run import Bucket, Run, Update
from normc.update.runtime.tables import Store, same

UNDECOMPOSED = "no eigenpairs: "  # what ops warn of, followed by the parameter's place among those that step
_TENSORS = (Tensor, torch.nn.Parameter)


class Share(NamedTuple):
    """What a step does to one bucket on lists of tensors: those of its parameters that have a gradient, by their places
    in the bucket (`live`), their names, and the gradients.
    """

    bucket: Bucket
    live: list[int]
    names: list[str]
    parameters: list[Tensor]
    gradients: list[Tensor]


class UpdateOptimizer(LoadingOptimizer):
    """Runs each bucket's generated function on the parameters that have a gradient."""

    _launcher: Launcher | None = None
    _pending: Pending | None = None
    _nonfinite: Mapping[str, int] = MappingProxyType({})
    _owed: Sequence[str] = ()
    # By parameter, the steps at which a factor had no eigenpairs (Shampoo, SOAP).
    undecomposed: Mapping[str, int] = MappingProxyType({})
    _members: Mapping[str, Tensor] = MappingProxyType({})
    _seen: tuple[Update | None, list[tuple[list[str], list[Tensor]]]] = (None, [])
    _idle: Sequence[tuple[str, Tensor]] = ()
    _fused: Sequence[Bucket] = ()
    _others: Sequence[Bucket] = ()
    _device_types: Sequence[str] = ()
    _salts: Mapping[str, int] = MappingProxyType({})

    def __setstate__(self, state: dict[str, Any]) -> None:
        """As torch's, which is also how a state_dict gets in; tables of the states before are of no more use."""
        super().__setstate__(state)
        self._launcher = None
        self._pending = None

    def __getstate__(self) -> dict[str, Any]:
        """As torch's, when what the device found is known."""
        self._settle()
        return {**super().__getstate__(), "_nonfinite": dict(self._nonfinite)}

    def state_dict(self) -> dict[str, Any]:
        """As torch's, when what the device found is known."""
        self._settle()
        return super().state_dict()

    @property
    def nonfinite(self) -> Mapping[str, int]:
        """By parameter, the steps at which its gradient wasn't finite. Waits for the last step on a GPU."""
        self._settle()
        return dict(self._nonfinite)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient. Returns the closure's loss."""
        given = (self,) if closure is None else (self, closure)
        if torch.compiler.is_compiling():  # a whole training step: this one's code is compiled already
            return _by_itself(*given)
        return (_observed if _listened(self) else UpdateOptimizer._update_all)(*given)

    step.hooked = True  # type: ignore[attr-defined]  # torch needn't wrap it in hooks

    @torch.no_grad()
    def _update_all(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if not self.update.ready:
            self._fail("step() before the plan is known", "run the model forward once before the first step()")
        members = self._by_names()
        autocast = [kind for kind in self._device_types if torch.is_autocast_enabled(kind)]
        with ExitStack() as off:  # a step's products are in dtypes of its own
            for kind in autocast:
                off.enter_context(torch.autocast(kind, enabled=False))
            self._update_members(members)
        return loss

    def _update_members(self, members: Mapping[str, Tensor]) -> None:
        self._settle()
        if self._owed:
            owed, self._owed = self._owed, ()
            self._raise(owed, "was")
        if self._idle and (woken := self._woken()):
            self._wake(woken)
            members = self._by_names()
        if self._changed():
            members = self._by_names()
        shares = self._shares(self._others, members)  # what can't be stepped is said before anything has moved
        found = self._found(shares)
        launched = bool(self._fused) and self._launch(self._fused, members, found)
        if self._fused and not launched:
            shares = [*self._shares(self._fused, members), *shares]
            found = self._found(shares)
        if not shares and not (launched and self._launcher is not None and self._launcher.last is not None):
            self._tell_nothing_trains()
            return
        finite = self._judged(shares, found, launched)
        if finite is False:
            return
        for share in shares:
            self._step(share, None if finite is True else finite)
        if self.update.stochastic:
            for group in self.param_groups:
                group[SEED] += 1

    def _changed(self) -> bool:
        """Whether parameters were replaced by those that the model has now. Nothing is known of a model here."""
        return False

    def _tell_nothing_trains(self) -> None:
        """Say once that a step found no gradient."""
        if any(not entry.idle for entry in self.update.entries.values()):
            text = "no parameter of the optimizer has a gradient: step() has changed nothing"
            fix = "call backward() before it; make the optimizer after what replaces the model's parameters"
            self._tell("nothing", f"{text}\n  fix: {fix}")

    def _found(self, shares: Sequence[Share]) -> Tensor | None:
        """The flags of gradients that aren't finite, and whether any is; None where nobody looks."""
        gradients = [gradient for share in shares for gradient in share.gradients]
        return flags(gradients) if gradients and self._policy != "ignore" else None

    def _judged(self, shares: Sequence[Share], found: Tensor | None, launched: bool) -> bool | Tensor:
        """Whether a step may write: known now, or a flag on the device. Raises what is known now."""
        layout = self._launcher.last if launched and self._launcher is not None else None
        if self._policy == "ignore" or (found is None and layout is None):
            return True
        names = [name for share in shares for name in share.names]
        if layout is None and found is not None and at_once(found.device):
            if not (wrong := named(names, found)):
                return True
            self._told_of(wrong)
            if self._policy == "raise":
                self._raise(wrong, "is")
            if self._policy == "zero":
                clean([gradient for share in shares for gradient in share.gradients])
            return self._policy == "zero"
        if layout is not None:
            names = [*layout.names, *names] if names else layout.names
            found = layout.found if found is None else torch.cat([layout.found[:-1], found[:-1], layout.found[-1:]])
        assert found is not None
        counts = [self._state(p, state, kind) for share in shares for state, kind in share.bucket.states
                  if kind == "count" for p in share.parameters]  # fmt: skip

        def undo() -> None:
            if layout is not None:
                layout.count(-1.0)
            if counts:
                torch._foreach_sub_(counts, 1.0)

        if not (found.is_cuda and torch.cuda.is_current_stream_capturing()):  # of a user's own graph nobody reads it
            self._pending = Pending(names, found, undo)
        if self._policy == "zero":
            clean([gradient for share in shares for gradient in share.gradients])
            return True
        return found[-1] == 0 if shares else True

    def _settle(self) -> None:
        """Read what the device found at the step before. An error is owed to the next step."""
        pending, self._pending = self._pending, None
        if pending is None or not (wrong := pending.names()):
            return
        if self._policy != "zero":
            pending.undo()
        self._told_of(wrong)
        if self._policy == "raise":
            self._owed = wrong

    def _told_of(self, wrong: Sequence[str]) -> None:
        """Count the parameters whose gradients aren't finite; say so once, where nothing is raised."""
        counted = dict(self._nonfinite)
        for name in wrong:
            counted[name] = counted.get(name, 0) + 1
        self._nonfinite = counted
        done = {"skip": "the step is skipped", "zero": "such entries count as zero"}.get(self._policy)
        if done is not None:
            text = f"the gradient of {listed(wrong)} is not finite: {done}, this time and later ones"
            self._tell("nonfinite", f"{text}\n  fix: look for what made it; opt.nonfinite counts such steps")

    def _raise(self, wrong: Sequence[str], was: str) -> NoReturn:
        self._fail(
            f"the gradient of {listed(wrong)} {was} not finite; that step has moved nothing",
            'look for what made it (a loss of NaN, fp16 without a GradScaler), or give nonfinite="skip" or "zero"',
        )

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
        update, seen = self._seen
        groups = self.param_groups
        loops = None if self._launcher is None else self._launcher.native.loops
        if (
            update is not self.update
            or len(groups) != len(seen)
            or not all(_equal(group["param_names"], own[0], loops) for group, own in zip(groups, seen, strict=True))
            or not all(same(group["params"], own[1], loops) for group, own in zip(groups, seen, strict=True))
        ):
            seen = [(list(group["param_names"]), list(group["params"])) for group in groups]
            members = {name: p for names, own in seen for name, p in zip(names, own, strict=True)}
            self._members, self._seen = members, (self.update, seen)
            self._idle = [(name, members[name]) for name in self.update.idle if name in members]
            self._fused = [bucket for bucket in self.update.buckets if bucket.fused is not None]
            self._others = [bucket for bucket in self.update.buckets if bucket.fused is None]
            self._device_types = sorted({parameter.device.type for parameter in members.values()} - {"meta"})
            self._salts = {name: place for place, name in enumerate(sorted(self.update.entries))}
        return self._members

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
        return self._launcher.step(self.param_groups, self.cores.enabled, self._gradient, outside)

    @torch.no_grad()
    def observe_logits(self, largest: Mapping[str, Tensor]) -> None:
        """Say the largest attention logit of each head since the last step, by the name of a query's or key's weight.

        Needs a recipe's option `qk_clip`, and a plan made with heads=True: numbers are for the plan's blocks of that
        parameter, in their order; 0 leaves one alone. Of several calls before a step, the largest count.
        """
        members = self._by_names()
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

    def _shares(self, buckets: Sequence[Bucket], members: Mapping[str, Tensor]) -> list[Share]:
        """What a step does to buckets on lists of tensors. Fails on a gradient that no update can take."""
        shares = []
        for bucket in buckets:
            found = [members.get(name) for name in bucket.names]
            live = [index for index, tensor in enumerate(found) if tensor is not None and tensor.grad is not None]
            if live:
                names = [bucket.names[index] for index in live]
                parameters = [members[name] for name in names]
                shares.append(Share(bucket, live, names, parameters, list(map(self._gradient, names, parameters))))
        return shares

    def _step(self, share: Share, finite: Tensor | None) -> None:
        bucket, parameters = share.bucket, share.parameters
        if bucket.holds_gradients:
            self._check_held(share.names, parameters, share.gradients)
        if not bucket.pieces:
            states = {name: [self._state(p, name, kind) for p in parameters] for name, kind in bucket.states}
            self._update(bucket, share.live, parameters, share.gradients, states, finite)
        for index, parameter, grad in (
            zip(share.live, parameters, share.gradients, strict=True) if bucket.pieces else ()
        ):
            start = 0
            for part, own in _pieces(parameter, grad, bucket.pieces):
                states = {name: [own] for name, _ in bucket.states}
                self._update(bucket, [index], [part], [own], states, finite, start)
                start += part.numel()
        if bucket.holds_gradients:
            self._watch_held(share.names, parameters)

    def _update(
        self,
        bucket: Bucket,
        live: list[int],
        parameters: list[Tensor],
        gradients: list[Tensor],
        states: dict[str, list[Tensor]],
        finite: Tensor | None,
        start: int = 0,
    ) -> None:
        """Run a bucket's function; nothing is written where the flag `finite` is false. Of flat pieces, `start` is the
        place of the first entry in its parameter.
        """
        written_to = [] if finite is None else [*parameters, *_kept(bucket, states)]
        before = [tensor.clone() for tensor in written_to]
        compute_dtypes = [self._dtype(parameter) for parameter in parameters]
        weights, grads = _converted(parameters, compute_dtypes), _converted(gradients, compute_dtypes)
        group = self.param_groups[bucket.group]
        # What is narrow is updated as compute_dtypes copies, and rounded once, below.
        written = [(parameters, weights)]
        for name, kind in bucket.states:
            if kind == "grad" or (kind == "like" and self.update.state is not None):
                written.append(
                    (gradients, grads) if kind == "grad" else (states[name], _converted(states[name], compute_dtypes))
                )
                states[name] = written[-1][1]
        shapes = [self.update.entries[name].shape for name in bucket.names]
        run = Run(weights, grads, states, live, shapes, group, self.cores)
        if bucket.decomposes:
            self._decompose(bucket, run)
        else:
            bucket.step(run)
        nearest = []
        for place, pair in enumerate(written):
            for index, old, new in zip(live, *pair, strict=True):
                if old is not new and old.dtype == torch.bfloat16 and self.update.stochastic:
                    salt = self._salts[bucket.names[index]]
                    local(old).copy_(round_stochastically(local(new), group[SEED], salt, place, start))
                elif old is not new:
                    nearest.append((old, new))
        if nearest:
            torch._foreach_copy_([old for old, _ in nearest], [new for _, new in nearest])
        for tensor, old in zip(written_to, before, strict=True):
            assert finite is not None
            tensor.copy_(torch.where(finite.to(tensor.device, non_blocking=True), tensor, old))

    def _decompose(self, bucket: Bucket, run: Run) -> None:
        """Run a bucket's function; count the parameters whose factors have no eigenpairs, and say so once."""
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            bucket.step(run)
        wrong = [str(one.message).removeprefix(UNDECOMPOSED) for one in said if UNDECOMPOSED in str(one.message)]
        for one in (one for one in said if UNDECOMPOSED not in str(one.message)):
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
        if not wrong:
            return
        names = [bucket.names[run.live[int(place)]] for place in wrong]
        self.undecomposed = {**self.undecomposed, **{name: self.undecomposed.get(name, 0) + 1 for name in names}}
        text = f"a factor of {listed(names)} has no eigenpairs, in float64 either: the last ones are kept, or none"
        self._tell("eigh", f"{text}\n  fix: look for what spoiled its gradients; opt.undecomposed counts them")

    def _gradient(self, name: str, parameter: Tensor) -> Tensor:
        self._check_shape(name, parameter)
        grad = parameter.grad
        assert grad is not None
        if grad.layout is not torch.strided:
            self._fail(f"the gradient of {name!r} is sparse", "make the embedding with sparse=False")
        self._check_real(name, grad)
        return grad

    def _state(self, parameter: Tensor, name: str, kind: str) -> Tensor:
        if kind == "grad":
            assert parameter.grad is not None
            return parameter.grad
        state = self.state[parameter]
        if name not in state:
            if kind == "count":
                state[name] = torch.tensor(0.0)
            elif kind == "like":
                dtype = self._kept_in(parameter, kind)
                state[name] = torch.zeros_like(parameter, dtype=dtype, memory_format=torch.preserve_format)
            else:
                shape = tuple(map(int, kind.split("x")))
                state[name] = torch.zeros(shape, dtype=self._dtype(parameter), device=parameter.device)
        elif kind == "like" and self.update.state not in (None, state[name].dtype):  # loaded before the plan was known
            state[name] = state[name].to(self.update.state)
        value: Tensor = state[name]
        return value


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


def listed(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    return f"{names[0]!r}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _kept(bucket: Bucket, states: Mapping[str, list[Tensor]]) -> list[Tensor]:
    """The states that lie beside their parameter; the host's counts don't."""
    return [tensor for name, kind in bucket.states if kind != "count" for tensor in states[name]]


def _moves(gradient: Tensor) -> bool:
    """Whether a gradient says anything. One of zeros doesn't: some hosts add 0 times every parameter to a loss."""
    return gradient.layout is not torch.strided or bool(gradient.any())


def _converted(tensors: list[Tensor], dtypes: list[torch.dtype]) -> list[Tensor]:
    """Copies in these dtypes; a tensor itself where it has its own already."""
    return [tensor.to(dtype) for tensor, dtype in zip(tensors, dtypes, strict=True)]


def _equal(names: Sequence[str], known: list[str], loops: Loops | None) -> bool:
    return (loops is not None and loops.same(names, known)) or list(names) == known


def _pieces(parameter: Tensor, grad: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Flat views of a parameter and its gradient, `size` entries at most; both whole where they don't lie in order."""
    if parameter.numel() <= size or not (parameter.is_contiguous() and grad.is_contiguous()):
        yield parameter, grad
        return
    yield from zip(parameter.view(-1).split(size), grad.view(-1).split(size), strict=True)
