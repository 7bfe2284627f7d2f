"""Benchmarks of the data pipeline: sources, deduplication, tokenization, executors, memory."""
