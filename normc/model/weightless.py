"""Building a model of any size without its weights."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from torch import nn


@contextlib.contextmanager
def weightless() -> Iterator[None]:
    """Inside, every parameter that a module registers goes to the meta device; buffers stay real.

    `torch.device("meta")` would take the buffers' values too, and with them what tells a table of positions (its index
    counts up) from one of token types (its index is zero everywhere).
    """
    register = nn.Module.register_parameter

    def register_without_data(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and parameter.device.type != "meta":
            parameter = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
        register(module, name, parameter)

    nn.Module.register_parameter = register_without_data  # type: ignore[method-assign, assignment]  # put back below
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def without_weights(build: Callable[[], nn.Module]) -> nn.Module:
    """What `build` makes, its parameters on the meta device; with real ones if its constructor computes with them."""
    try:
        with weightless():
            return build()
    except (NotImplementedError, RuntimeError):
        return build()
