"""Benchmarks of the model: layer, step, communication, activation memory."""
