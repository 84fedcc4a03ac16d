"""Newton-Schulz polynomials: minimax steps, their composition, and the named ones.

May import errors.
"""
