"""The decoder layer: as modules, and fused into one function with a hand-written backward pass.
Imported by `model` and above; imports `parallel`, `save_policy` and below.
"""
