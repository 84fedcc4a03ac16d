"""Sizes and gains: how large each activation is, and how much a change of it changes what an op makes of it.

One file for a family of ops, one `@gain` for an op. The forward pass (magnitude) and the backward pass (sensitivity)
read the same rules.
"""
