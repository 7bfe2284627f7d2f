"""C4 as published (allenai/c4): gzipped JSON lines with `text`, `timestamp` and `url`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from data_pipeline.document import Document, Rejected
from data_pipeline.inputs import InputFile, Inputs, walk
from data_pipeline.json_lines import JSON_SUFFIXES, read_json_lines
from data_pipeline.streams import uncompressed_name

_TIMESTAMP = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)Z?")


def inputs(root: Path) -> Inputs:
    """The JSON-lines files under `root`, compressed or not."""

    def why_ignored(file: InputFile) -> str | None:
        suffix = PurePosixPath(uncompressed_name(file.path.name)).suffix
        return None if suffix in JSON_SUFFIXES else "unknown_kind"

    return walk(root, follow_symlinks=True).without(why_ignored)


def read(file: InputFile, *, language: str) -> Iterator[Document | Rejected]:
    """The documents of one file, all in `language`; `offset` is the line, from 1."""
    try:
        for item in read_json_lines(file, text_field="text"):
            if isinstance(item, Document):
                timestamp = iso_timestamp(item.timestamp)
                yield replace(item, language=language, timestamp=timestamp)
            else:
                yield item
    except OSError as error:
        yield Rejected("unreadable", file.source_file, detail=str(error))


def iso_timestamp(timestamp: str | None) -> str | None:
    """Both spellings in which C4 is found ("2019-04-25T12:57:54Z", "2019-04-25 12:57:54") as the
    first; the time of the crawl, in UTC. Anything else stays as it is.
    """
    match = _TIMESTAMP.fullmatch(timestamp or "")
    return f"{match[1]}T{match[2]}Z" if match else timestamp
