"""Costs of the dataset job: each source, deduplication, tokenization, executors, memory."""
