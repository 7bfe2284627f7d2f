"""Exports in the programs that people take them to; run by hand (`run.sh`), may use `llama_ds`."""
