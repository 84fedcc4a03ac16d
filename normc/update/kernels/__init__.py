"""Matrix kernels in Triton: symmetric products, Newton-Schulz in the Gram form and of many small matrices.

May import nothing of normc.
"""
