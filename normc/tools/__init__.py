"""What looks at models, plans and updates from outside: checks, measurements, reports.

May import arguments, errors, files, nodes, plans, registry, model, recipe, update, passes, the pipeline.
"""
