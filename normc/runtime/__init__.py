"""What runs a generated update, with torch alone. Its files are embedded, in this order, in every exported update."""

from normc.runtime.fused import Fused, FusedRun, jit, tl
from normc.runtime.named import NamedOptimizer
from normc.runtime.run import Bucket, Cores, Entry, Run, Update
from normc.runtime.step import UpdateOptimizer

EMBEDDED = ("fused", "run", "holder", "launcher", "named", "step")

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
