"""`normc.cbs`: the critical batch size, measured and fitted (docs/cbs.md).

May import arguments, errors, tools.report.
"""
