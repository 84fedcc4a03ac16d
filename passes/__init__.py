"""Analyses of a model's graph, and rewrites of the update program: one file each."""
