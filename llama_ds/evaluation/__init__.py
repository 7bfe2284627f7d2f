"""The LLaMA paper's evaluation: its tasks on the lm-evaluation-harness, its table, along a run too.
Imported by `train` and by nothing below; imports the model, its parallelism and its planning.
"""
