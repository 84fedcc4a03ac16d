"""One file a family of workloads. `benchmarks.workloads.workload.load` imports every file here; nothing lists them."""
