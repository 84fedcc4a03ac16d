"""Modula's recipes against the package of the paper and the numbers that follow from it."""
