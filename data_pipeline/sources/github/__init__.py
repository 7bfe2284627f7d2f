"""GitHub reader: source code from BigQuery exports and checkouts. From outside only this face is
imported, by recipes."""

from data_pipeline.sources.github.bigquery import inputs, read
from data_pipeline.sources.github.checkouts import inputs as checkout_inputs
from data_pipeline.sources.github.checkouts import read as read_checkout
from data_pipeline.sources.github.code_files import (
    DOCUMENT_SUFFIXES,
    GITHUB_KINDS,
    NOT_OWN_FOLDERS,
    TEST_FOLDERS,
)
from data_pipeline.sources.github.notices import without_notices

__all__ = [
    "DOCUMENT_SUFFIXES",
    "GITHUB_KINDS",
    "NOT_OWN_FOLDERS",
    "TEST_FOLDERS",
    "checkout_inputs",
    "inputs",
    "read",
    "read_checkout",
    "without_notices",
]
