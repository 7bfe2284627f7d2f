"""Kills training jobs and dataset builds at random; they must lose nothing."""
