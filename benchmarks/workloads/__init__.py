"""Optimizers on small real workloads, each tuned with the same number of runs: how many steps to the same loss?"""
