"""What runs a generated update, with torch alone. Its files are embedded in every exported update."""

from normc.runtime.named import NamedOptimizer as NamedOptimizer
from normc.runtime.run import Bucket as Bucket
from normc.runtime.run import Cores as Cores
from normc.runtime.run import Entry as Entry
from normc.runtime.run import Run as Run
from normc.runtime.run import Update as Update
from normc.runtime.step import UpdateOptimizer as UpdateOptimizer
