"""CommonCrawl reader: WARC and WET files to text. From outside only this face is imported, by
recipes."""

from data_pipeline.sources.common_crawl.crawl_files import inputs, read

__all__ = ["inputs", "read"]
