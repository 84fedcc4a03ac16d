"""Runnable examples: `python -m examples.demo`, `.cnn`, `.three_lines`."""
