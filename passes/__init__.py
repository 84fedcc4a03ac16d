"""Passes: analyses of a model's graph, the graph at another size, rewrites of the update program.

May import arguments, errors, nodes, plans, model, recipe, update.
"""
