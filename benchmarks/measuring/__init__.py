"""Clocks, paired ratios, peak memory, result files: how all benchmarks measure and report."""
