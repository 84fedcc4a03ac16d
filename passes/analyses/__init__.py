"""From a model's graph to facts, a file a pass; each reads the graph and the facts before it.

May import errors, nodes, plans, model, model.gains, model.ops, model.trace, recipe.
"""
