"""Readers of raw data formats: a folder or a file per source. Imported by `build`, `commands` and
recipes, a source by its face alone; a source imports no other source."""
