"""Backends, a file each, how a program runs on a device: reference (float64, plain: it judges the others), cpu, cuda.

May import errors, registry, version, recipe, update.fused, update.kernels, update.ops, update.program,
update.runtime.
"""
