"""States in 8 bits: blocks of 256 entries, each a signed code, and of each block its largest absolute value.

Block-wise absmax quantisation (Dettmers et al., 8-bit Optimizers via Block-wise Quantization, 2022, arXiv:2110.02861,
section 2.1), with evenly spaced codes from -127 to 127: an entry x of a block whose largest absolute value is s has the
code round(127 x / s), to the even one of two that are as near, and counts as code / 127 s. No entry moves by more than
s / 254, and none to more than twice itself. What codes stand for has these same codes: to decode and encode again
changes no bit. Needs torch alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

# Kinds of states: codes, int8 and shaped like the parameter, and their blocks' largest values, float32 [blocks].
CODES, SCALES = "codes", "scales"
PASSING = "passing"  # what one part of a step over ranks hands to another: shaped like the parameter, and never narrow
CODE_BLOCK = 256  # entries of a scale, in the order of the parameter's logical shape
_LARGEST_CODE = 127
_ENCODED = 2**18  # entries at once, a bound on workspace


def scale_of(name: str) -> str:
    """What the scales of a state are called beside it."""
    return f"{name}_scale"


def shape_of(kind: str, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of a parameter's state of a kind."""
    if kind == SCALES:
        return (blocks_of(math.prod(shape)),)
    if kind == "count":
        return ()
    return tuple(shape) if kind in ("like", "grad", CODES, PASSING) else tuple(map(int, kind.split("x")))


def blocks_of(numel: int) -> int:
    """The number of blocks, and scales, of so many entries."""
    return -(-numel // CODE_BLOCK)


def decode(codes: Tensor, scales: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """What codes [*shape] with scales [blocks] stand for: code / 127 scale, in float32, then in `dtype`; [*shape].

    A block whose scale isn't finite is NaN, at least where its code is 0.
    """
    wide = codes.reshape(-1).to(torch.float32).mul_(1 / _LARGEST_CODE)
    for place, block in _block_views(wide):
        block.mul_(scales[place : place + len(block), None])
    return wide.view(codes.shape).to(dtype)


def encode(value: Tensor, codes: Tensor, scales: Tensor) -> None:
    """Write a value's codes and scales, in place. `codes` is contiguous, of the shape of `value`."""
    flat = value.detach().reshape(-1)
    for first in range(0, flat.numel(), _ENCODED):
        own = flat[first : first + _ENCODED].to(torch.float32)
        into = codes.view(-1)[first : first + _ENCODED]
        start = first // CODE_BLOCK
        for (place, block), (_, code) in zip(_block_views(own), _block_views(into), strict=True):
            largest = block.abs().amax(1)
            scales[start + place : start + place + len(block)] = largest
            found = block / torch.where(largest > 0, largest, 1.0)[:, None]
            code.copy_(found.mul_(_LARGEST_CODE).round_().nan_to_num_(0.0).clamp_(-_LARGEST_CODE, _LARGEST_CODE))


def encoded(value: Tensor) -> tuple[Tensor, Tensor]:
    """The codes of a value, int8 of its shape, and their scales, float32 [blocks]."""
    codes = torch.empty(value.shape, dtype=torch.int8, device=value.device)
    scales = torch.empty(blocks_of(value.numel()), device=value.device)
    encode(value, codes, scales)
    return codes, scales


def kept_as(own: Mapping[str, Any], kinds: Mapping[str, str]) -> dict[str, Any]:
    """A parameter's states in the form that an update keeps, which has these kinds: numbers are encoded where it keeps
    codes, and codes decoded where it keeps numbers. What fits neither stays as it is.
    """
    found = dict(own)
    for name, kind in kinds.items():
        value, scales = found.get(name), found.get(scale_of(name))
        if not isinstance(value, Tensor):
            continue
        if kind == CODES and value.is_floating_point():
            found[name], found[scale_of(name)] = encoded(value)
        elif kind == "like" and value.dtype is torch.int8 and isinstance(scales, Tensor):
            if scales.is_floating_point() and tuple(scales.shape) == shape_of(SCALES, value.shape):
                found[name] = decode(value, found.pop(scale_of(name)))
    return found


def _block_views(flat: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Views [blocks, entries] of a flat tensor: the whole blocks, and the last. With each, the blocks before it."""
    whole = flat.numel() // CODE_BLOCK
    if whole:
        yield 0, flat[: whole * CODE_BLOCK].view(whole, CODE_BLOCK)
    if whole * CODE_BLOCK < flat.numel():
        yield whole, flat[whole * CODE_BLOCK :].view(1, -1)
