"""Gradients that aren't finite: how a step finds them without waiting for a device. Needs torch alone.

On a CPU the host looks before anything moves. On a device a flag is raised beside the gradients, which every write of
the step asks; the host reads it a step later.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._utils import _flatten_dense_tensors

from normc.update.kernels.language import jit, tl
from normc.update.runtime.rounding import local

# What a step does about a gradient that isn't finite: it raises, or leaves itself out, with weights and states as they
# were; or such entries count as zero; or it doesn't look.
POLICIES = ("raise", "skip", "zero", "ignore")
# A number that kernels read among those of their group: 0 where nothing may be written, else 1.
FINITE = "finite"
_SMALL = 2048  # entries of a tensor that is faster copied beside others than looked at alone
_PROGRAMS = 256  # that look at one gradient


def at_once(device: torch.device) -> bool:
    """Whether the host reads a tensor without waiting."""
    return device.type in ("cpu", "meta")


def all_finite(gradients: Sequence[Tensor]) -> bool:
    """Whether all entries are finite, for tensors on the CPU. False too where a sum of squares overflows."""
    small: dict[torch.dtype, list[Tensor]] = {}
    large: list[Tensor] = []
    for gradient in gradients:
        (small.setdefault(gradient.dtype, []) if gradient.numel() <= _SMALL else large).append(gradient)
    sizes = [_flatten_dense_tensors(own).sum() for own in small.values()]
    sizes += torch._foreach_norm(large) if large else ()
    return all(map(math.isfinite, torch.stack(sizes).tolist()))


def flags(gradients: Sequence[Tensor]) -> Tensor:
    """[n + 1], of float32, on the first one's device: 1 for each that isn't finite, then whether any is.

    With sharded gradients all ranks agree on the last number: each sees its own parts.
    """
    own = [local(gradient) for gradient in gradients]
    device = own[0].device
    if at_once(device) and all(part.device == device for part in own):
        found = torch.zeros(len(own) + 1)
        if device.type == "cpu" and not all_finite(own):
            found[:-1] = torch.tensor([float(not part.isfinite().all()) for part in own])
    else:
        filled = [place for place, part in enumerate(own) if part.numel()]
        found = torch.zeros(len(own) + 1, device=device)
        if filled:
            norms = torch._foreach_norm([own[place] for place in filled], math.inf)
            seen = torch.stack([norm.to(device, non_blocking=True) for norm in norms])
            found[torch.tensor(filled, device=device)] = (~seen.isfinite()).float()
    found[-1] = found[:-1].amax()
    for mesh in dict.fromkeys(gradient.device_mesh for gradient in gradients if hasattr(gradient, "device_mesh")):
        for group in mesh.get_all_groups():
            torch.distributed.all_reduce(found[-1], torch.distributed.ReduceOp.MAX, group)
    return found


def clean(gradients: Sequence[Tensor]) -> None:
    """Put zeros where entries aren't finite, in place."""
    for gradient in gradients:
        local(gradient).nan_to_num_(0.0, 0.0, 0.0)


class Flags:
    """Flags [n + 1] of a step's gradients, by `names`, on their way to the host, which reads them a step later."""

    def __init__(self, names: Sequence[str], found: Tensor) -> None:
        self.names, self.found = names, found
        self._event: Any = None
        self._host = found  # where it is the host's, it reads before another step writes
        if found.is_cuda:
            self._host = torch.empty(found.shape, dtype=found.dtype, pin_memory=True)
            self._event = torch.cuda.Event()
        self._any = self._host[-1]

    def captured(self) -> bool:
        """Whether a graph of the user's own is being made, which may not wait, and whose steps nobody reads."""
        return self._event is not None and torch.cuda.is_current_stream_capturing()

    def send(self) -> bool:
        """Send the flags of the step that is under way. False, with nothing sent, where nobody reads them."""
        if self.captured():
            return False
        if self._event is not None:
            self._host.copy_(self.found, non_blocking=True)
            self._event.record(torch.cuda.current_stream(self.found.device))
        return True

    def wrong(self) -> list[str]:
        """The parameters whose gradients weren't finite, at the step that was sent last."""
        if self._event is not None:
            self._event.synchronize()
        return named(self.names, self._host) if self._any.item() else []


def named(names: Sequence[str], found: Tensor) -> list[str]:
    """The names that flags are raised for."""
    if found[-1].item() == 0.0:
        return []
    chosen = [name for name, flag in zip(names, found.tolist(), strict=False) if flag]
    return chosen or ["a parameter's part on another rank"]


def listed(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    return f"{names[0]!r}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")


@jit
def find_nonfinite(  # type: ignore[no-untyped-def]  # annotations, but for constexpr, are no Triton
    table, found, entries, stride,
    CLEAN: tl.constexpr, ALIGN: tl.constexpr, KIND: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Raise each row's flag whose gradient, the table's second line, isn't finite; with CLEAN, put zeros there."""
    row = tl.program_id(1)
    g_at = tl.multiple_of(tl.load(table + stride + row).to(tl.pointer_type(KIND)), ALIGN)
    for start in range(tl.program_id(0).to(tl.int64) * BLOCK, entries, tl.num_programs(0) * BLOCK):
        here = start + tl.arange(0, BLOCK)
        inside = here < entries
        g = tl.load(g_at + here, mask=inside, other=0.0)
        wide = g if KIND == tl.float64 else g.to(tl.float32)  # noqa: SIM300
        wrong = inside & ((wide != wide) | (tl.abs(wide) == float("inf")))
        if tl.max(wrong.to(tl.int32), axis=0) > 0:
            tl.store(found + row, 1.0)
            if CLEAN:
                tl.store(g_at + here, tl.zeros_like(g), mask=wrong)


def raise_flags(
    table: Tensor, found: Tensor, entries: int, stride: int, clean: bool, align: int, kind: Any, block: int
) -> None:
    """Raise the flags [rows] of gradients of so many entries by their addresses, the table's second line; make those
    that aren't finite zero if `clean`.
    """
    if entries and len(found):
        grid = (min(-(-entries // block), _PROGRAMS), len(found))
        find_nonfinite[grid](table, found, entries, stride, clean, align, kind, block)
