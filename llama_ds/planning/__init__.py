"""Estimates before a run starts: memory, communication volume, dry run. Imported by recipes;
imports `config`, `batch`, `parallel` and below."""
