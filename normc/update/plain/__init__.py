"""A plan's update as one short file of plain PyTorch, for people to read, keep and change (docs/export.md).

May import errors, plans, update.ops, update.program.
"""
