"""The plan: its rows, formulas, overrides, JSON and hash; all that the two sides know of each other.

May import arguments, errors, registry.
"""
