"""The algebra of updates, a file a kind of stage: moments, preconditioners, norms, sizes, clips, applications.

May import errors, plans, update.ops.
"""
