"""Shared by all benchmarks: timing, paired ratios, peak memory, result files."""
