"""Gradients that hold the average of all before, so that no buffer does (ScionLight). Needs torch alone."""

from __future__ import annotations

import sys
import warnings
import weakref
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import torch
from torch import Tensor

from normc.update.runtime.run import Update

_TORCH = str(Path(torch.__file__).parent)


class Seen:
    """A gradient's version as last seen, by a step or by the hook of its parameter that this is; and whether something
    else than backward has written to it in between.
    """

    version = 0
    touched = False

    def __call__(self, parameter: Tensor) -> None:
        """Backward has added to the gradient."""
        assert parameter.grad is not None
        self.touched |= parameter.grad._version != self.version + 1
        self.version = parameter.grad._version


def unguarded(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of torch's optimizers without what keeps torch.compile out of it, as that imports the whole compiler at
    its first call (1.5 s). Within compiled code, and where somebody else has wrapped it, the method as it is.
    """
    guarded = getattr(method, "__globals__", {}).get("__name__") == "torch._compile"
    return getattr(method, "__wrapped__", method) if guarded and not torch.compiler.is_compiling() else method


class GradientHolder(torch.optim.Optimizer):
    """Keeps the gradients of buckets that hold them: over zero_grad, in checkpoints, in pickles and copies."""

    update: Update
    _last: dict[str, weakref.ref[Tensor]] | None = None
    _watched: Mapping[str, tuple[weakref.ref[Tensor], Seen]] = MappingProxyType({})
    _told: tuple[str, ...] = ()
    # torch.distributed.checkpoint looks for the names of states after a step at lr 0 and a zero_grad. Until the next
    # step, the gradients are among them.
    _tried = False

    def _warning(self) -> type[Warning]:
        return UserWarning

    def _fail(self, problem: str, fix: str) -> NoReturn:
        raise RuntimeError(f"{problem}\n  fix: {fix}")

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Not there, as for any optimizer whose gradients come unscaled. A GradScaler asks for it before it divides
        gradients, and averages in them, by its scale: it is refused there.
        """
        if self._holding():
            self._fail(
                f"{self.update.recipe} can't take a GradScaler: gradients hold the average of all before, unscaled",
                "train in bf16 without a scaler, or take a recipe that keeps its average in a buffer (scion)",
            )
        raise AttributeError("_step_supports_amp_scaling")

    def _holding(self) -> list[Tensor]:
        """Parameters whose gradient stays between steps."""
        names = {name for bucket in self.update.buckets if bucket.holds_gradients for name in bucket.names}
        groups = self.param_groups if names else []
        pairs = [pair for group in groups for pair in zip(group["param_names"], group["params"], strict=True)]
        return [parameter for name, parameter in pairs if name in names]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As torch's, but it leaves alone the gradients that hold the average of all before (recipe scion-light).

        The first call says so, if there are any: a loop for such a recipe needs no call of it. Don't call
        model.zero_grad() either, which would forget the average; the next step warns if it was called.
        """
        held = [(parameter, parameter.grad) for parameter in self._holding()]
        if held:
            text = f"zero_grad() leaves {len(held)} gradients as they are, which hold the average of all before"
            self._tell("zero_grad", f"{text}\n  fix: leave the call out: {self.update.recipe} never zeroes gradients")
        for parameter, _ in held:
            parameter.grad = None
        unguarded(torch.optim.Optimizer.zero_grad)(self, set_to_none)
        for parameter, grad in held:
            parameter.grad = grad
            if self._tried and grad is not None:
                self.state[parameter]["gradient"] = grad

    def _tell(self, topic: str, text: str) -> None:
        """Warn, once of each topic, on the line that called the optimizer."""
        if topic in self._told:
            return
        self._told = (*self._told, topic)
        functions = [value for own in type(self).__mro__ for value in vars(own).values()]
        files = {value.__code__.co_filename for value in functions if hasattr(value, "__code__")}
        frame, frames = sys._getframe(1), 2
        while frame.f_back is not None and (
            frame.f_code.co_filename in files or frame.f_code.co_filename.startswith(_TORCH)
        ):
            frame, frames = frame.f_back, frames + 1
        warnings.warn(text, self._warning(), stacklevel=frames)

    def _check_held(self, names: list[str], parameters: list[Tensor], grads: list[Tensor]) -> None:
        """Warn if gradients that hold the average aren't those of the last step, or were written to by anything but
        backward.
        """
        last = self._last or {}
        lost = [name for name, grad in zip(names, grads, strict=True) if name in last and last[name]() is not grad]
        if lost:
            problem = f"the average of {lost[0]!r} is lost: its gradient is another than at the last step"
            self._tell("lost", f"{problem}\n  fix: don't call model.zero_grad(), nor set a parameter's grad")
        self._last = {**last, **{name: weakref.ref(grad) for name, grad in zip(names, grads, strict=True)}}
        touched = [
            name for name, grad in zip(names, grads, strict=True) if name not in lost and self._touched(name, grad)
        ]
        # Where gradients are averaged over ranks, others write to them too.
        if touched and not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            problem = f"the average of {touched[0]!r} was changed by something else than backward"
            self._tell("touched", f"{problem}\n  fix: don't clip, scale or zero gradients, which hold the average")
        self._tried = all(float(group["lr"]) == 0 for group in self.param_groups)
        for parameter in parameters:
            self.state.get(parameter, {}).pop("gradient", None)

    def _touched(self, name: str, grad: Tensor) -> bool:
        seen = self._watched[name][1] if name in self._watched else None
        return seen is not None and (seen.touched or seen.version != grad._version)

    def _watch_held(self, names: list[str], parameters: list[Tensor]) -> None:
        """Remember the versions of gradients after a step; each backward adds one."""
        watched = dict(self._watched)
        for name, parameter in zip(names, parameters, strict=True):
            if name not in watched or watched[name][0]() is not parameter:
                seen = Seen()
                parameter.register_post_accumulate_grad_hook(seen)
                watched[name] = (weakref.ref(parameter), seen)
            seen = watched[name][1]
            assert parameter.grad is not None
            seen.version, seen.touched = parameter.grad._version, False
        self._watched = watched

    def _land(self) -> None:
        """Wait for states that a device is still writing to the host."""
        if self.update.offload and torch.cuda.is_initialized():
            torch.cuda.synchronize()

    def _with_gradients(self) -> defaultdict[Any, Any]:
        """The states, with the gradients that hold an average as they now are."""
        self._land()
        held = {p: {**self.state.get(p, {}), "gradient": p.grad} for p in self._holding() if p.grad is not None}
        return defaultdict(dict, {**self.state, **held})

    def state_dict(self) -> dict[str, Any]:
        """As torch's, with the gradients that hold an average."""
        own = self.state
        self.state = self._with_gradients()
        try:
            state: dict[str, Any] = super().state_dict()
        finally:
            self.state = own
        return state

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "state": self._with_gradients()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Gradients that come with states become the parameters' own."""
        super().__setstate__(state)
        for parameter in self._holding() if "update" in self.__dict__ else ():
            parameter.grad = None
        for parameter, own in self.state.items():
            if "gradient" in own:
                parameter.grad = own.pop("gradient").detach().to(parameter.dtype, copy=True)
        if "update" in self.__dict__:
            held = {id(parameter) for parameter in self._holding() if parameter.grad is not None}
            pairs = [
                pair for group in self.param_groups for pair in zip(group["param_names"], group["params"], strict=True)
            ]
            self._last = {name: weakref.ref(own.grad) for name, own in pairs if id(own) in held}
        else:
            self._last = None
        self._watched = {}
