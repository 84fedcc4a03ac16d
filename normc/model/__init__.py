"""What is known of a model: its graph, what each op does to axes and sizes, the facts that the analyses add.

May import arguments, errors, nodes, plans, registry, version.
"""
