"""From chains of stages to what runs: ops, programs, printed modules, kernels, the runtime.

May import arguments, errors, nodes, plans, registry.
"""
