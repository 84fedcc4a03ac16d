"""Recipes, a file each: which norm, radius and stages a row gets. Importing a file registers its recipe.

May import errors, plans, recipe, recipe.exponents, recipe.stages.
"""
