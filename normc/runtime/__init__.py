"""What runs a generated update, with torch alone. Its files are embedded, in this order, in every exported update."""

from normc.runtime.named import NamedOptimizer
from normc.runtime.run import Bucket, Cores, Entry, Run, Update
from normc.runtime.step import UpdateOptimizer

EMBEDDED = ("run", "holder", "named", "step")

__all__ = ["EMBEDDED", "Bucket", "Cores", "Entry", "NamedOptimizer", "Run", "Update", "UpdateOptimizer"]
