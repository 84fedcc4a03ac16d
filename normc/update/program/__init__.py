"""The update program: chains, families, laws of the algebra, and the module that is printed from them.

May import arguments, errors, plans, registry, update.ops, update.runtime.
"""
