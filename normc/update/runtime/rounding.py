"""Stochastic rounding to bf16, whose error is zero on average (Gupta et al., Deep Learning with Limited Numerical
Precision, 2015, arXiv:1502.02551). Needs torch alone.

The dither is a hash of a seed, a number of the parameter, and the entry's place: no random generator is drawn from, and
the same step gives the same bits on lists of tensors and in kernels.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

# A parameter group's value, only there if rounding is stochastic: an integer, another one each step.
SEED = "rounding_seed"
_ENTRIES = 2**20  # rounded at once, a bound on workspace
_WORD = 2**32 - 1

Bits = TypeVar("Bits", int, Tensor)


def _mixed(x: Bits) -> Bits:
    """A hash of 32 bits: products modulo 2^32 and shifts. The second factor is 0x846CA68B, less 2^32 for int64."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _WORD
    x = ((x ^ (x >> 15)) * -0x7B935975) & _WORD
    return x ^ (x >> 16)


def dither(seed: int, salt: int, place: int, entries: Tensor) -> Tensor:
    """16 random bits for each entry, int64. `salt` is the parameter's number, `place` that of its tensor: 0 is the
    weight, states come after. Two places share a hash of 32 bits.
    """
    key = _mixed((_mixed(_mixed(seed & _WORD) ^ (salt & _WORD)) + place // 2) & _WORD)
    return (_mixed((entries & _WORD) ^ key) >> 16 * (place % 2)) & 0xFFFF


def round_stochastically(value: Tensor, seed: int, salt: int, place: int, start: int = 0) -> Tensor:
    """`value` in bf16: each entry up or down, with the chances that make it right on average.

    What bf16 has is kept, infinities and NaN too. `start` is the place of its first entry in the whole tensor.
    """
    flat = value.detach().to(torch.float32).reshape(-1)
    rounded = torch.empty_like(flat, dtype=torch.bfloat16)
    for first in range(0, flat.numel(), _ENTRIES):
        part = flat[first : first + _ENTRIES]
        entries = torch.arange(start + first, start + first + part.numel(), device=flat.device)
        bits = part.view(torch.int32) + dither(seed, salt, place, entries).to(torch.int32)
        rounded[first : first + _ENTRIES] = torch.where(part.isfinite(), (bits & -(2**16)).view(torch.float32), part)
    return rounded.view(value.shape)


def local(tensor: Tensor) -> Tensor:
    """A distributed tensor's own part; another tensor as it is."""
    found: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return found
