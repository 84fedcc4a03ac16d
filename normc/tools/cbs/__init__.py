"""`normc.cbs`: the critical batch size, measured and fitted (docs/cbs.md).

May import errors, tools.report.
"""
