"""Continuing prompts with a trained model: command line, memory check, tensor parallelism.
Imported by nothing; imports `checkpoint`, `model`, `planning` and below.
"""
