"""Stack Exchange reader: dumps to questions with answers. From outside only this face is imported,
by recipes."""

from data_pipeline.sources.stack_exchange.dumps import inputs, read

__all__ = ["inputs", "read"]
