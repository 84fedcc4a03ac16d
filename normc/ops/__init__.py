"""What each ATen op does to the axes of its operands: one file for a family of ops, one `@rule` for an op."""
