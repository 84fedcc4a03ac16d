"""Gradients that hold the average of all before, so that no buffer does (ScionLight). Needs torch alone."""

from __future__ import annotations

import sys
import warnings
import weakref
from collections import defaultdict
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from normc.update.runtime.run import Update

_TORCH = str(Path(torch.__file__).parent)


class GradientHolder(torch.optim.Optimizer):
    """Keeps the gradients of buckets that hold them: over zero_grad, in checkpoints, in pickles and copies."""

    update: Update
    # States that a checkpoint's loading leaves in the dtype that torch gives them.
    as_they_are: ClassVar[tuple[str, ...]] = ("step", "gradient")
    _last: dict[str, weakref.ref[Tensor]] | None = None
    _told: tuple[str, ...] = ()

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
            self._tell("zero_grad", f"{text}\n  fix: leave the call out: {self.update.recipe} never zeroes gradients")
        for parameter, _ in held:
            parameter.grad = None
        super().zero_grad(set_to_none)
        for parameter, grad in held:
            parameter.grad = grad

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

    def _check_held(self, names: list[str], grads: list[Tensor]) -> None:
        """Warn if gradients that hold the average aren't those of the last step."""
        last = self._last or {}
        lost = [name for name, grad in zip(names, grads, strict=True) if name in last and last[name]() is not grad]
        if lost:
            problem = f"the average of {lost[0]!r} is lost: its gradient is another than at the last step"
            self._tell("lost", f"{problem}\n  fix: don't call model.zero_grad(), nor set a parameter's grad")
        self._last = {**last, **{name: weakref.ref(grad) for name, grad in zip(names, grads, strict=True)}}

    def _with_gradients(self) -> defaultdict[Any, Any]:
        """The states, and with them the gradients that hold an average."""
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
        """Gradients that come with states become the parameters' own. torch's load_state_dict comes by here too."""
        super().__setstate__(state)
        for parameter in self._holding() if "update" in self.__dict__ else ():
            parameter.grad = None
        for parameter, own in self.state.items():
            if "gradient" in own:
                parameter.grad = own.pop("gradient").detach().to(parameter.dtype, copy=True)
        self._last = None
