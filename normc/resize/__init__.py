"""A traced model at another size: which dimensions go together, which blocks repeat, and the graph of the other model.

The traced graph is rewritten, then the ordinary passes look at it: nothing about a plan of another size is computed
anywhere else than in them.
"""
