"""Whole `opt.step()` calls beside other optimizers: `python -m benchmarks.step`."""
