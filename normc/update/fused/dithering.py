"""Stochastic rounding to bf16 within kernels, as `normc.update.runtime.rounding` does it, bit by bit."""

from __future__ import annotations

from collections.abc import Sequence

from normc.update.runtime.rounding import SEED

# A row's own number, the parameter's place among the plan's names.
SALT = "salt"

HELPERS = """@jit
def mixed(x):
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@jit
def seeded(seed, salt):
    return mixed(mixed(seed.to(tl.int64).to(tl.uint32)) ^ salt.to(tl.int64).to(tl.uint32))


@jit
def rounded(value, dither, KIND: tl.constexpr):
    if KIND == tl.bfloat16:
        bits = value.to(tl.float32).to(tl.uint32, bitcast=True)
        other = (bits + dither) & 0xFFFF0000
        bits = tl.where((bits & 0x7F800000) == 0x7F800000, bits, other)
        value = bits.to(tl.float32, bitcast=True)
    return value"""


def dithered(
    states: Sequence[tuple[str, str]], roles: Sequence[str]
) -> tuple[list[str], list[str], list[tuple[str, str]]]:
    """Lines for the head of a kernel, lines for each block, and what is stored by role, rounded. `roles` are all that a
    row has: "w", "g" and its states, in order.
    """
    places = {role: place for place, role in enumerate(role for role in roles if role != "g")}
    words = sorted({places[role] // 2 for role, _ in states})
    head = [f"dither_key = seeded({SEED}, {SALT})"]
    head += [f"dither_key_{word} = mixed(dither_key + {word})" for word in words]
    body = [f"dither_{word} = mixed(here.to(tl.uint32) ^ dither_key_{word})" for word in words]
    stored = []
    for role, value in states:
        part = ("& 0xFFFF", ">> 16")[places[role] % 2]
        stored.append((role, f"rounded({value}, dither_{places[role] // 2} {part}, {role.upper()})"))
    return head, body, stored
