"""C4 reader (allenai/c4 as published): gzipped JSON lines with `text`, `timestamp` and `url`, or
the same columns in Parquet."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from data_pipeline.document import Document, Rejected
from data_pipeline.files.compressed import uncompressed_name
from data_pipeline.files.inputs import InputFile, Inputs, NotRead, walk
from data_pipeline.files.remote import Root
from data_pipeline.sources.rows import is_json, is_parquet, read_documents

# Multilingual C4 has the language in file names: c4-de.tfrecord-..., c4-zh-Latn-validation.tfr...
_LANGUAGE = re.compile(r"c4-([a-z]{2,3}(?:-[A-Z][a-z]{3})?)(?:-validation)?\.tfrecord-")
_TIMESTAMP = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)Z?")
_TFRECORD = NotRead(
    "tfrecord", "TensorFlow's records are not read; allenai/c4 has the same pages as .json.gz"
)
_ARCHIVE = NotRead("archive", "unpack it; JSON lines and Parquet are read")
_ARROW = NotRead("arrow", "a cache of Hugging Face datasets; take the .json.gz or .parquet files")
_CRAWL = NotRead("a_crawl", "pages before C4's filters; --c4.from-crawl filters WET files")
_OTHER_FORMATS = (
    ((".zip", ".7z", ".rar", ".tar", ".tgz"), _ARCHIVE),
    ((".arrow",), _ARROW),
    ((".warc", ".wet", ".wat"), _CRAWL),
)
_UNFILTERED = NotRead(
    "unfiltered_c4",
    "en.noclean has the pages before C4's filters and is not C4; take en, or filter WET files of "
    "the crawl (--c4.from-crawl)",
)


def inputs(root: Root, *, language: str = "en") -> Inputs:
    """The files of JSON lines and Parquet under `root`, compressed or not, except those whose name
    has another language than `language`, and C4 before its filters."""

    def why_ignored(file: InputFile) -> str | NotRead | None:
        if ".tfrecord-" in file.path.name and not is_json(file.path):
            return _TFRECORD
        if not is_json(file.path) and not is_parquet(file.path):
            name = uncompressed_name(file.path.name)
            known = (why for endings, why in _OTHER_FORMATS if name.endswith(endings))
            return next(known, "unknown_kind")
        if "noclean" in file.source_file.lower():
            return _UNFILTERED
        named = _LANGUAGE.match(file.path.name)
        return "language_not_wanted" if named is not None and named[1] != language else None

    return walk(root, follow_symlinks=True).without(why_ignored)


def read(file: InputFile, *, language: str) -> Iterator[Document | Rejected]:
    """Stream the documents of one file, all in `language`; `offset` is the line, from 1."""
    for item in read_documents(file, text_field="text"):
        if isinstance(item, Document):
            timestamp = iso_timestamp(item.timestamp)
            yield replace(item, language=language, timestamp=timestamp)
        else:
            yield item


def iso_timestamp(timestamp: str | None) -> str | None:
    """Both timestamp formats in which C4 is found ("2019-04-25T12:57:54Z", "2019-04-25 12:57:54")
    as the first; the time of the crawl, in UTC. Anything else is unchanged.
    """
    match = _TIMESTAMP.fullmatch(timestamp or "")
    return f"{match[1]}T{match[2]}Z" if match else timestamp
