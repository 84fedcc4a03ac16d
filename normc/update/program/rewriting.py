"""The rewrites by name: from a program to one that does the same in fewer steps."""

from __future__ import annotations

from collections.abc import Callable

from normc.registry import Registry
from normc.update.program.program import Program

Rewrite = Callable[[Program], Program]
rewrites: Registry[Rewrite] = Registry("rewrite", "normc.passes.rewrites")


def rewrite(name: str) -> Callable[[Rewrite], Rewrite]:
    """Register a pass: a function from a program to one whose `decisions` say what it did, and why."""
    return rewrites.register(name)
