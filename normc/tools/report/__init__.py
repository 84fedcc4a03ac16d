"""Plans, steps, recipes and polynomials as tables and words. Importing a file registers its report.

May import arguments, errors, plans, registry, recipe, recipe.stages, update.ops, update.polynomials, update.program.
"""
