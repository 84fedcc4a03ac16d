"""A traced model at another size: its graph rewritten, so that the ordinary passes can look at it anew.

May import arguments, errors, nodes, plans, model, model.ops, model.trace, passes.analyses.
"""
