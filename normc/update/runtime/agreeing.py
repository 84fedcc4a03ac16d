"""What ranks say to each other before a step: whether they are about to do the same. Needs torch alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from normc.update.runtime.rounding import local


@contextmanager
def heard(fail: Callable[[str, str], NoReturn], left: str) -> Iterator[None]:
    """Within it ranks talk. Fails where one is gone, or doesn't answer in the time that its process group has; `left`
    says what has moved on this rank.
    """
    try:
        yield
    except RuntimeError as error:  # gloo raises no narrower one
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        fail(
            f"rank {torch.distributed.get_rank()} lost another rank in the middle of a step, {left}: {reason}",
            "end all ranks, and start them again from the last checkpoint",
        )


def compared(said: str, wrong: float, teams: Sequence[Any], device: torch.device) -> tuple[bool, float]:
    """Whether all ranks of these teams say the same, and the largest of their numbers. One message a team, whatever it
    is about: ranks that ask about different things differ.
    """
    number = float(int.from_bytes(hashlib.sha256(said.encode()).digest()[:6], "big"))
    found = torch.tensor([wrong, number, -number], dtype=torch.float64, device=device)
    for team in teams:
        torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX, group=team)
    largest, most, least = found.tolist()
    return most == -least, largest


def moving(gradients: Mapping[str, Tensor]) -> list[str]:
    """Which of these gradients aren't zeros alone, on any rank of the meshes that some of them lie over."""
    found = torch.stack([local(gradient).any().float() for gradient in gradients.values()])
    for mesh in dict.fromkeys(gradient.device_mesh for gradient in gradients.values() if isinstance(gradient, DTensor)):
        for axis in range(mesh.ndim):
            torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX, group=mesh.get_group(axis))
    return [name for name, moves in zip(gradients, found.tolist(), strict=True) if moves]
