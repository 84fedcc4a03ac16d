"""From a plan to an update program and from program to program, a file a pass.

May import errors, plans, recipe, recipe.stages, update.fused, update.kernels, update.ops, update.program,
update.runtime.
"""
