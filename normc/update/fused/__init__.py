"""One pass over memory for the elementwise ops of a chain: their aten graph, printed as a Triton kernel.

May import nodes, update.kernels, update.ops, update.program, update.runtime.
"""
