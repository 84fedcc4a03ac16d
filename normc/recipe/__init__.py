"""From a plan's row to its norm, its radius and the chain of stages that updates it.

May import arguments, errors, plans, registry, update.
"""
