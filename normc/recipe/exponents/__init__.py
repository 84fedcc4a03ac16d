"""How sizes, multipliers and rates follow width (solved) and depth (CompleteP, u-muP).

May import errors.
"""
