"""The runtime's door: what generated modules import, and the files that stand in exported ones, in this order."""

from normc.update.kernels.language import jit as jit
from normc.update.kernels.language import tl as tl
from normc.update.runtime.fused import Fused as Fused
from normc.update.runtime.fused import FusedRun as FusedRun
from normc.update.runtime.run import Bucket as Bucket
from normc.update.runtime.run import Entry as Entry
from normc.update.runtime.run import Run as Run
from normc.update.runtime.run import Update as Update

EMBEDDED = (
    "normc.update.kernels.language",
    "normc.update.kernels.ahead",
    "normc.update.runtime.progress",
    "normc.update.runtime.rounding",
    "normc.update.runtime.codes",
    "normc.update.runtime.faults",
    "normc.update.runtime.fused",
    "normc.update.runtime.run",
    "normc.update.runtime.holder",
    "normc.update.runtime.native",
    "normc.update.runtime.tables",
    "normc.update.runtime.layout",
    "normc.update.runtime.launcher",
    "normc.update.runtime.named",
    "normc.update.runtime.saved",
    "normc.update.runtime.loading",
    "normc.update.runtime.decomposing",
    "normc.update.runtime.lists",
    "normc.update.runtime.judging",
    "normc.update.runtime.step",
)

# What Newton-Schulz in kernels is made of, in the order of their imports.
MATRICES = (
    "normc.update.kernels.tiles",
    "normc.update.kernels.symmetric",
    "normc.update.kernels.hopper",
    "normc.update.kernels.products",
    "normc.update.kernels.small",
    "normc.update.kernels.cost",
    "normc.update.kernels.normalise",
    "normc.update.kernels.chunks",
    "normc.update.kernels.polar",
    "normc.update.kernels.newton_schulz",
)
