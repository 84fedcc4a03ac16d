"""Backends, a file each: how a program runs on a kind of device. Importing a file registers its backend.

May import errors, plans, registry, version, recipe, update.fused, update.kernels, update.ops, update.program,
update.runtime.
"""
