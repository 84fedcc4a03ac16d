"""What runs a generated update, with torch alone. Its files are embedded, in this order, in every exported update."""

from normc.kernels.language import jit, tl
from normc.runtime.fused import Fused, FusedRun
from normc.runtime.named import NamedOptimizer
from normc.runtime.run import Bucket, Cores, Entry, Run, Update
from normc.runtime.step import UpdateOptimizer

EMBEDDED = (
    "kernels.language",
    "kernels.ahead",
    "runtime.fused",
    "runtime.run",
    "runtime.rounding",
    "runtime.holder",
    "runtime.native",
    "runtime.tables",
    "runtime.launcher",
    "runtime.named",
    "runtime.step",
)

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
