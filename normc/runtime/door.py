"""The runtime's door: what generated modules import, and the files that stand in exported ones, in this order."""

from normc.kernels.language import jit as jit
from normc.kernels.language import tl as tl
from normc.runtime.fused import Fused as Fused
from normc.runtime.fused import FusedRun as FusedRun
from normc.runtime.run import Bucket as Bucket
from normc.runtime.run import Entry as Entry
from normc.runtime.run import Run as Run
from normc.runtime.run import Update as Update

EMBEDDED = (
    "normc.kernels.language",
    "normc.kernels.ahead",
    "normc.runtime.fused",
    "normc.runtime.run",
    "normc.runtime.rounding",
    "normc.runtime.holder",
    "normc.runtime.native",
    "normc.runtime.tables",
    "normc.runtime.launcher",
    "normc.runtime.named",
    "normc.runtime.step",
)

# What Newton-Schulz in kernels is made of, in the order of their imports.
MATRICES = (
    "normc.kernels.tiles",
    "normc.kernels.symmetric",
    "normc.kernels.hopper",
    "normc.kernels.products",
    "normc.kernels.small",
    "normc.kernels.cost",
    "normc.kernels.normalise",
    "normc.kernels.chunks",
    "normc.kernels.polar",
    "normc.kernels.newton_schulz",
)
