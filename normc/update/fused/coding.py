"""States in 8 bits within kernels, as `normc.update.runtime.codes` has them on tensors."""

from __future__ import annotations

from collections.abc import Collection

from normc.update.runtime.codes import scale_of

# Adding 1.5 * 2^23 to a float32 below 2^22, and taking it off again, rounds to the nearest whole number, to even ones.
HELPERS = """@jit
def read_codes(codes, scales, here, inside):
    code = tl.load(codes + here, mask=inside, other=0).to(tl.float32)
    return code * 0.007874015748031496 * tl.load(scales + here // 256, mask=inside, other=0.0)


@jit
def write_codes(codes, scales, here, inside, start, entries, value, BLOCK: tl.constexpr):
    groups = tl.reshape(tl.where(inside, value.to(tl.float32), 0.0), (BLOCK // 256, 256))
    largest = tl.max(tl.where(groups == groups, tl.abs(groups), float("inf")), axis=1)
    code = groups / tl.where(largest > 0, largest, 1.0)[:, None] * 127.0
    code = tl.where(code == code, (code + 12582912.0) - 12582912.0, 0.0)
    code = tl.minimum(tl.maximum(code, -127.0), 127.0).to(tl.int8)
    tl.store(codes + here, tl.reshape(code, (BLOCK,)), mask=inside)
    block = start // 256 + tl.arange(0, BLOCK // 256)
    tl.store(scales + block, largest, mask=block * 256 < entries)"""


def loaded(role: str, codes: Collection[str]) -> str:
    """A row's entries of a role as a kernel reads them, decoded where it is one of `codes`."""
    if role in codes:
        return f"read_codes({role}_at, {scale_of(role)}_at, here, inside)"
    return f"tl.load({role}_at + here, mask=inside, other=0.0)"


def stored(role: str, value: str, codes: Collection[str]) -> str:
    """How a kernel writes them."""
    if role in codes:
        return f"write_codes({role}_at, {scale_of(role)}_at, here, inside, start, entries, {value}, BLOCK)"
    return f"tl.store({role}_at + here, {value}, mask=inside)"
