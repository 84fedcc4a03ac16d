"""What looks at models, plans and updates from outside: checks, measurements, reports.

May import errors, nodes, plans, registry, model, recipe, update, passes, the pipeline.
"""
