"""`normc check`: gains, one step, and sizes over width and depth, measured and held against the plan.

May import arguments, errors, files, nodes, plans, model, model.gains, model.ops, model.trace, recipe, recipe.stages,
passes.analyses, the pipeline, tools.report.
"""
