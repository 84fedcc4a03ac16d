"""How what a step writes is kept in memory: the dtype of states, where they lie, and how bf16 is rounded to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import fx

from normc.arguments import flag, shown
from normc.errors import NormcError
from normc.update.runtime.codes import CODES


@dataclass(frozen=True, slots=True)
class Storage:
    """`state` is the dtype of states that are shaped like their parameter; None is that of the arithmetic, at least
    float32. torch.int8 is for averages of gradients or steps alone, in blocks with a scale each. `stochastic` rounds
    what is written to bf16, states and weights, up or down at random, by how near each is. `offload` keeps states in
    the host's memory, wherever the parameters are.
    """

    state: torch.dtype | None = None
    stochastic: bool = False
    offload: bool = False

    def __setstate__(self, state: list[Any]) -> None:
        """Out of a pickle; of one that had fewer fields, the rest are as by default."""
        for index, item in enumerate(fields(self)):
            object.__setattr__(self, item.name, state[index] if index < len(state) else item.default)

    @property
    def like(self) -> torch.dtype | None:
        """The dtype of states that are shaped like their parameter and have no codes."""
        return None if self.state is torch.int8 else self.state

    def why_whole(self, device: str) -> str:
        """Why states of parameters on a type of device can't lie over ranks; empty if they can."""
        if self.state is torch.int8:
            return "state_dtype=torch.int8 keeps a scale for every 256 entries, which shards would cut"
        if self.stochastic:
            return "stochastic_rounding would round the copies that ranks have of a parameter to different numbers"
        if self.offload and device != "cpu":
            return 'state_device="cpu" can\'t keep the states of parameters that lie over ranks of GPUs'
        return ""

    def __str__(self) -> str:
        kept = f"states in {self.state}".replace("torch.", "") if self.state is not None else ""
        said = (kept, "states on the host" if self.offload else "", "stochastic rounding" if self.stochastic else "")
        return "; ".join(filter(None, said))


PLAIN = Storage()
WHOLE_FIX = "leave it out; state_dtype=torch.bfloat16 works"


def storage(state_dtype: torch.dtype | None, stochastic_rounding: bool, state_device: str | None = None) -> Storage:
    """As the options of normc.compile say it. NormcError for a dtype that states aren't kept in, or another place."""
    if not (state_dtype is None or state_dtype in (torch.float32, torch.bfloat16, torch.int8)):
        said = state_dtype if isinstance(state_dtype, torch.dtype) else shown(state_dtype)
        fix = "give torch.bfloat16, torch.int8, or None for at least float32"
        raise NormcError(f"state_dtype is {said}", fix)
    if not (state_device is None or state_device == "cpu"):
        fix = 'give "cpu" to keep states in the host\'s memory, or None for beside the parameters'
        raise NormcError(f"state_device is {shown(state_device)}", fix)
    narrow = None if state_dtype is torch.float32 else state_dtype
    return Storage(narrow, flag("stochastic_rounding", stochastic_rounding), state_device == "cpu")


def check_kinds(kept: Storage, kinds: Iterable[tuple[str, str]], recipe: str) -> None:
    """NormcError if a state, a parameter's name and a kind, is the gradient itself, of the parameter's dtype; and where
    codes were asked for, if no state has them.
    """
    known = list(kinds)
    held = [name for name, kind in known if kind == "grad"]
    what = "dtype" if kept.state is not None else "device"
    if held and (kept.state is not None or kept.offload):
        raise NormcError(
            f"the state of {held[0]!r} is its gradient, which has the parameter's {what}, whatever state_{what} says",
            f"leave state_{what} out" + (", and keep the parameters in bfloat16" if what == "dtype" else ""),
        )
    if kept.state is torch.int8 and known and not any(kind == CODES for _, kind in known):
        raise NormcError(
            f"{recipe} keeps no average of gradients or steps, which is what int8 is for",
            "leave state_dtype out, give torch.bfloat16, or take another recipe",
        )


def with_codes(kept: Storage, graphs: Iterable[fx.Graph]) -> None:
    """Of graphs that nobody else has yet, mark the averages as codes, where int8 was asked for."""
    if kept.state is not torch.int8:
        return
    for node in (node for graph in graphs for node in graph.nodes):
        if node.meta.get("average"):
            node.meta["state"] = CODES
