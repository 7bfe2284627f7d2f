"""Benchmarks on one large GPU within a time budget (`benchmarks/gpu.sh`)."""
