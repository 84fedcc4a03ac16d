"""Data, tasks and the training loop that examples and benchmarks share."""
