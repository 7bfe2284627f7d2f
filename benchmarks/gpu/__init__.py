"""One large GPU under a budget of time (`benchmarks/gpu.sh`)."""
