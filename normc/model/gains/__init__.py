"""How large an op's result is, and the gain from each operand: a file a family of ops, one `@gain` an op.

May import nodes, plans, registry, model.ops, model.trace.
"""
