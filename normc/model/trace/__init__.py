"""From a model to its graph: one run on fake tensors, every ATen call a node.

May import arguments, errors, nodes, version.
"""
