"""Books reader: Project Gutenberg and own books. From outside only this face is imported, by
recipes."""

from data_pipeline.sources.books.book_files import inputs, read, without_gutenberg

__all__ = ["inputs", "read", "without_gutenberg"]
