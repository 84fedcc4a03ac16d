"""What a plan's step takes over many ranks, worked out without any: `normc.distribution` and `normc plan --mesh`.

May import arguments, errors, plans, passes.rewrites, the pipeline, tools.report, update.program, update.runtime.
"""
