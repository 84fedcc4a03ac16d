"""What tracing must leave as it was."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor, nn


def state_of(model: nn.Module) -> dict[str, object]:
    """Everything that tracing must leave alone, by value or by identity."""
    tensors = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
    found: dict[str, object] = {name: (id(t), t._version, t.tolist(), t.requires_grad) for name, t in tensors.items()}
    for path, module in model.named_modules():
        for key, value in vars(module).items():
            content = tuple(value) if isinstance(value, list) else dict(value) if isinstance(value, dict) else value
            found[f"{path}:{key}"] = (id(value), repr(content) if not isinstance(value, Tensor) else value.tolist())
    return found


def rng_state() -> tuple[object, ...]:
    """The states of torch's, Python's and numpy's global generators."""
    return torch.get_rng_state().tolist(), random.getstate(), repr(np.random.get_state())
