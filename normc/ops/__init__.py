"""What each ATen op does to the axes of its operands: one file for a family of ops, one `@rule` for an op.

A rule for an op of your own is one function in any file that is imported before the plan is made (docs/rules.md).
"""

from normc.ops.call import Call, Result, rule
from normc.ops.value import Value

__all__ = ["Call", "Result", "Value", "rule"]
