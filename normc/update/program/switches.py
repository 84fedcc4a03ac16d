"""The rewrites by name, each of which can be left out: `normc.compile(..., without=("graph",))`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from normc.arguments import items, shown
from normc.errors import NormcError


class Switch(NamedTuple):
    """A rewrite: what it does, and the backends that have it."""

    what: str
    backends: tuple[str, ...] = ("cpu", "cuda")


_GPU = ("cuda",)
SWITCHABLE: dict[str, Switch] = {
    "laws": Switch("ops that a norm makes idle are dropped, decay and step become one"),
    "stack": Switch("parameters of one shape and rule are one stack"),
    "fuse": Switch("a factor of the direction becomes the size of the step"),
    "dtypes": Switch("Newton-Schulz runs in 16 bits where the device multiplies them faster"),
    "batch": Switch("matrices of one short and long side share a Newton-Schulz call, vectors a function"),
    "turns": Switch("large stacks are worked on a part at a time"),
    "kernels": Switch("elementwise ops are Triton kernels on tables of addresses; without them no lanes and no graph",
                      _GPU),
    "small": Switch("matrices with a side up to 128 in one launch, all steps on chip", _GPU),
    "gram": Switch("Newton-Schulz on X X^T where that is less work"),
    "symmetric": Switch("of products known to be symmetric, half is computed"),
    "hopper": Switch("large symmetric products are those of quack-kernels, where it is installed", _GPU),
    "fold": Switch("the linear term of a polynomial sits on a diagonal instead of being added"),
    "lanes": Switch("turns run side by side, in streams", _GPU),
    "graph": Switch("from the third step on all kernels are one CUDA graph", _GPU),
}  # fmt: skip


def of_matrices(without: Sequence[str]) -> tuple[str, ...]:
    """Those that decide within Newton-Schulz, and are told to it."""
    return tuple(name for name in without if name in ("small", "gram", "symmetric", "hopper", "fold"))


def checked(without: Sequence[str], backend: str) -> tuple[str, ...]:
    """Names of rewrites to leave out, in the table's order. NormcError for others, and for what a backend hasn't."""
    given = (without,) if isinstance(without, str) else items("without", without, 'give names, as ("graph", "gram")')
    unknown = [name for name in given if not isinstance(name, str) or name not in SWITCHABLE]
    if unknown:
        listed = "".join(f"\n    {name:10} {switch.what}" for name, switch in SWITCHABLE.items())
        raise NormcError(f"there is no rewrite {shown(unknown[0])} to leave out", f"known:{listed}")
    for name in given:
        if backend not in SWITCHABLE[name].backends:
            own = [other for other, switch in SWITCHABLE.items() if backend in switch.backends]
            raise NormcError(
                f"the backend {backend} has no rewrite {name!r} to leave out", f"it has: {', '.join(own) or 'none'}"
            )
    return tuple(name for name in SWITCHABLE if name in given)
