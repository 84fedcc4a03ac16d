"""Measurements behind the numbers that the documentation gives."""
