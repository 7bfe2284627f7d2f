"""Shared test fixtures: reference implementations, tiny runs, generators of malformed inputs.
Imported by tests alone."""
