"""Predictions of the step over many ranks, beside other schemes: `python -m benchmarks.scaling`."""
