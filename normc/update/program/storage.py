"""How what a step writes is kept in memory: the dtype of states, and how bf16 is rounded to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from normc.arguments import flag, shown
from normc.errors import NormcError


@dataclass(frozen=True, slots=True)
class Storage:
    """`state` is the dtype of states that are shaped like their parameter; None is that of the arithmetic, at least
    float32. `stochastic` rounds what is written to bf16, states and weights, up or down at random, by how near each is.
    """

    state: torch.dtype | None = None
    stochastic: bool = False


PLAIN = Storage()


def storage(state_dtype: torch.dtype | None, stochastic_rounding: bool) -> Storage:
    """As the options of normc.compile say it. NormcError for a dtype that states aren't kept in."""
    if not (state_dtype is None or state_dtype is torch.float32 or state_dtype is torch.bfloat16):
        said = state_dtype if isinstance(state_dtype, torch.dtype) else shown(state_dtype)
        raise NormcError(f"state_dtype is {said}", "give torch.bfloat16, or None for at least float32")
    return Storage(
        torch.bfloat16 if state_dtype == torch.bfloat16 else None, flag("stochastic_rounding", stochastic_rounding)
    )


def check_kinds(kept: Storage, kinds: Iterable[tuple[str, str]]) -> None:
    """NormcError if a state, a parameter's name and a kind, is the gradient itself, of the parameter's dtype."""
    held = [name for name, kind in kinds if kind == "grad"] if kept.state is not None else []
    if held:
        raise NormcError(
            f"the state of {held[0]!r} is its gradient, which has the parameter's dtype, whatever state_dtype says",
            "leave state_dtype out, and keep the parameters in bfloat16",
        )
