"""Benchmarks of time and memory: one script per claim, and `results/`. Imports everything but
tests; nothing imports it."""
