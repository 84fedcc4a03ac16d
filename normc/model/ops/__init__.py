"""What each ATen op does to the axes of its operands: a file a family of ops, one `@rule` an op (docs/rules.md).

May import nodes, plans, registry, model.trace.
"""
