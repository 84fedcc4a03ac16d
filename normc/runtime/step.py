"""The step of a generated update. Needs torch alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from normc.runtime.named import NamedOptimizer
from normc.runtime.run import Bucket, Run


class UpdateOptimizer(NamedOptimizer):
    """Runs each bucket's generated function on the parameters that have a gradient."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient. Returns the closure's loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if not self.update.ready:
            self._fail("step() before the plan is known", "run the model forward once before the first step()")
        members: dict[str, Tensor] = {}
        for group in self.param_groups:
            members.update(zip(group["param_names"], group["params"], strict=True))
        for name in self.update.idle:
            if name in members and members[name].grad is not None and members[name].numel() > 0:
                self._fail(
                    f"{name!r} has a gradient, but the plan says that none reaches it",
                    "make the plan with an example that reaches it, or freeze it",
                )
        for bucket in self.update.buckets:
            self._step(bucket, members)
        return loss

    def _step(self, bucket: Bucket, members: dict[str, Tensor]) -> None:
        found = [members.get(name) for name in bucket.names]
        live = [index for index, tensor in enumerate(found) if tensor is not None and tensor.grad is not None]
        if not live:
            return
        parameters = [members[bucket.names[index]] for index in live]
        weights = [parameter.to(self._dtype(parameter)) for parameter in parameters]
        grads = [self._gradient(bucket.names[index], members[bucket.names[index]]) for index in live]
        states = {name: [self._state(p, name, kind) for p in parameters] for name, kind in bucket.states}
        shapes = [self.update.entries[name].shape for name in bucket.names]
        bucket.step(Run(weights, grads, states, live, shapes, self.param_groups[bucket.group], self.cores))
        # Narrow weights were updated as wide copies; they are rounded once, here.
        narrow = [(p, w) for p, w in zip(parameters, weights, strict=True) if p is not w]
        if narrow:
            torch._foreach_copy_([p for p, _ in narrow], [w for _, w in narrow])

    def _gradient(self, name: str, parameter: Tensor) -> Tensor:
        self._check_shape(name, parameter)
        grad = parameter.grad
        assert grad is not None
        if grad.layout is not torch.strided:
            self._fail(f"the gradient of {name!r} is sparse", "make the embedding with sparse=False")
        if grad.is_complex():
            self._fail(f"{name!r} is complex", "keep its real and imaginary part in a real parameter")
        return grad.to(self._dtype(parameter))

    def _state(self, parameter: Tensor, name: str, kind: str) -> Tensor:
        state = self.state[parameter]
        if name not in state:
            if kind == "count":
                state[name] = torch.tensor(0.0)
            elif kind == "like":
                dtype = self._dtype(parameter)
                state[name] = torch.zeros_like(parameter, dtype=dtype, memory_format=torch.preserve_format)
            else:
                shape = tuple(map(int, kind.split("x")))
                state[name] = torch.zeros(shape, dtype=self._dtype(parameter), device=parameter.device)
        value: Tensor = state[name]
        return value
