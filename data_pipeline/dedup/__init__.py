"""Compare documents with one another: exact and near duplicates, books, paragraphs, and the type of
a corpus-level rule. Imported by `build`, `commands` and recipes; imports `document` and below.
"""
