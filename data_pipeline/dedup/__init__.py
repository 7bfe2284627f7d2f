"""Deduplication: exact duplicates, near-duplicates (MinHash LSH), books, repeated paragraphs, and
the type of a corpus-level rule. Imported by `build`, `commands` and recipes; imports `document` and
below.
"""
