"""One decoder layer: its modules, and the same as one function with a hand-written backward pass.
Imported by `model` and above; imports `parallel`, `save_policy` and below.
"""
