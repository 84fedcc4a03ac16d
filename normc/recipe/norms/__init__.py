"""Norms, a file each: the linear minimisation oracle, measure and dual. Importing a file registers its norm.

May import plans, update.ops.
"""
