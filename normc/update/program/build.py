"""How an update is built from a plan: one value, which whoever asks for an update hands on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from normc.arguments import flag, instance, shown
from normc.errors import NormcError
from normc.update.program.storage import PLAIN, Storage, storage
from normc.update.program.switches import checked


@dataclass(frozen=True, slots=True)
class Build:
    """All that an update's code depends on, but for the plan.

    target   a backend, which takes this machine's own target, or one of its targets: "cuda:sm_90"
    compile  whether the generated functions go through torch.compile as they run; None except on a CPU; the text is
             the same
    without  rewrites that are left out, by name
    storage  how states and weights are kept
    nonfinite  what a step does about a gradient that isn't finite; the text is the same
    messages  what directions and steps are rounded to on their way between ranks; None for nothing narrower
    """

    target: str = "cpu"
    compile: bool | None = None
    without: tuple[str, ...] = ()
    storage: Storage = PLAIN
    nonfinite: str = "raise"
    messages: torch.dtype | None = None

    def __setstate__(self, state: list[Any]) -> None:
        """Out of a pickle; of one that had fewer fields, the rest are as by default."""
        default = Build()
        for index, item in enumerate(fields(self)):
            object.__setattr__(self, item.name, state[index] if index < len(state) else getattr(default, item.name))

    @property
    def backend(self) -> str:
        """The backend's name."""
        return self.target.split(":")[0]

    def __str__(self) -> str:
        wire = f"messages in {self.messages}".replace("torch.", "") if self.messages is not None else ""
        said = (f"without {', '.join(self.without)}" if self.without else "", str(self.storage), wire)
        return "; ".join([self.target, *filter(None, said)])


ON_CPU = Build()


def build_of(
    target: str,
    without: Sequence[str] = (),
    state_dtype: torch.dtype | None = None,
    stochastic_rounding: bool = False,
    compile: bool | None = None,
    nonfinite: str = "raise",
    state_device: str | None = None,
    messages: torch.dtype | None = None,
) -> Build:
    """As the options of normc.compile say it. NormcError for a rewrite that the target's backend hasn't, and for a
    dtype or a place that states can't have, or a dtype that messages can't.
    """
    instance("the target", target, str, 'give "cpu", "cuda" or "reference"')
    kept = storage(state_dtype, stochastic_rounding, state_device)
    cores = None if compile is None else flag("compile", compile)
    if not (messages is None or messages in (torch.float32, torch.bfloat16)):
        said = messages if isinstance(messages, torch.dtype) else shown(messages)
        raise NormcError(f"messages is {said}", "give torch.bfloat16, or None for messages that lose nothing")
    wire = None if messages is torch.float32 else messages
    return Build(target, cores, checked(without, target.split(":")[0]), kept, nonfinite, wire)


@dataclass(frozen=True, slots=True)
class Device:
    """What a backend says of a target, by which rewrites decide.

    polar     the dtype that Newton-Schulz runs in there, None for that of its stack, and `why`
    kernels   whether Triton's kernels run on the target
    fused     whether the backend has kernels of its own for what is elementwise
    at_once   entries of matrices that are worked on in one turn; 0 for all
    """

    type: str
    target: str
    kernels: bool = False
    fused: bool = False
    at_once: int = 0
    polar: torch.dtype | None = None
    why: str = ""


ANY_CPU = Device("cpu", "cpu:fp32")
