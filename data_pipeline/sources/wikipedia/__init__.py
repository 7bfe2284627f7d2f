"""Wikipedia reader: dumps to articles without markup. From outside only this face is imported, by
recipes."""

from data_pipeline.sources.wikipedia.dumps import drop_disambiguation, inputs, read, to_text

__all__ = ["drop_disambiguation", "inputs", "read", "to_text"]
