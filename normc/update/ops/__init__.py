"""The update ops: plain functions of tensors, each documented, printed into generated modules as they stand.

May import nothing of normc.
"""
