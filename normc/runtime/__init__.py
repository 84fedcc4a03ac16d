"""What runs a generated update, with torch alone. Its files are embedded, in this order, in every exported update."""

from normc.runtime import fused
from normc.runtime.fused import Fused, FusedRun, jit
from normc.runtime.named import NamedOptimizer
from normc.runtime.run import Bucket, Cores, Entry, Run, Update
from normc.runtime.step import UpdateOptimizer

tl = fused.tl  # type: ignore[attr-defined]  # of Triton, and None without it

EMBEDDED = ("fused", "run", "holder", "tables", "launcher", "named", "step")

__all__ = [
    "EMBEDDED",
    "Bucket",
    "Cores",
    "Entry",
    "Fused",
    "FusedRun",
    "NamedOptimizer",
    "Run",
    "Update",
    "UpdateOptimizer",
    "jit",
    "tl",
]
