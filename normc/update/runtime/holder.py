"""Gradients that hold the average of all before, so that no buffer does (ScionLight). Needs torch alone."""

from __future__ import annotations

import warnings
import weakref
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from normc.update.runtime.run import Update


class GradientHolder(torch.optim.Optimizer):
    """Keeps the gradients of buckets that hold them: over zero_grad, in checkpoints, in pickles and copies."""

    update: Update
    _last: dict[str, weakref.ref[Tensor]] | None = None
    _told: tuple[str, ...] = ()
    # torch.distributed.checkpoint looks for the names of states after a step at lr 0 and a zero_grad. Until the next
    # step, the gradients are among them.
    _tried = False

    def _warning(self) -> type[Warning]:
        return UserWarning

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
            self._tell(
                "zero_grad", f"{text}\n  fix: leave the call out: {self.update.recipe} never zeroes gradients", 3
            )
        for parameter, _ in held:
            parameter.grad = None
        super().zero_grad(set_to_none)
        for parameter, grad in held:
            parameter.grad = grad
            if self._tried and grad is not None:
                self.state[parameter]["gradient"] = grad

    def _tell(self, topic: str, text: str, frames: int) -> None:
        """Warn, once of each topic; the caller is so many frames away."""
        if topic not in self._told:
            self._told = (*self._told, topic)
            warnings.warn(text, self._warning(), stacklevel=frames)

    def _check_held(self, names: list[str], parameters: list[Tensor], grads: list[Tensor]) -> None:
        """Warn if gradients that hold the average aren't those of the last step."""
        last = self._last or {}
        lost = [name for name, grad in zip(names, grads, strict=True) if name in last and last[name]() is not grad]
        if lost:
            problem = f"the average of {lost[0]!r} is lost: its gradient is another than at the last step"
            self._tell("lost", f"{problem}\n  fix: don't call model.zero_grad(), nor set a parameter's grad", 7)
        self._last = {**last, **{name: weakref.ref(grad) for name, grad in zip(names, grads, strict=True)}}
        self._tried = all(float(group["lr"]) == 0 for group in self.param_groups)
        for parameter in parameters:
            self.state.get(parameter, {}).pop("gradient", None)

    def _with_gradients(self) -> defaultdict[Any, Any]:
        """The states, with the gradients that hold an average as they now are."""
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
        self._last = None
