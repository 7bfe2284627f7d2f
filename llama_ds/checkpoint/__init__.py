"""Checkpoints: a folder that is a Hugging Face model, for every layout; imported by training."""
