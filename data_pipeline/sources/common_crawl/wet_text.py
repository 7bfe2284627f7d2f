"""Reads WET as plain text, `*.warc.txt`, the form in which CCNet stores it.

Line ends are bare newlines, and Content-Length is that of another form of the text, so records are
separated by their headers: a line "WARC/1.0" followed by a header line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from data_pipeline.files.compressed import Stream, lines

_FIRST_LINE = (b"WARC/1.0", b"WARC/1.1")


@dataclass
class TextRecord:
    """One record of such a file."""

    offset: int
    """Byte offset of its first line in the decompressed file."""
    headers: dict[str, str] = field(default_factory=dict)
    """By lower-case name."""
    body: list[bytes] = field(default_factory=list)
    size: int = 0
    """Bytes of the body, including those beyond the limit."""

    @property
    def content(self) -> bytes:
        return b"".join(self.body)


def text_records(stream: Stream, *, max_block_bytes: int) -> Iterator[TextRecord]:
    """The records in order; a body is truncated at `max_block_bytes`, its full size is counted.

    Text before the first record is a record without headers. Reading raises one of
    `compressed.DAMAGE` where the file is corrupt.
    """
    record: TextRecord | None = None
    first_line: tuple[int, bytes] | None = None
    in_headers = False
    position = 0
    for line in lines(stream, max_block_bytes):
        content = b"" if line is None else line.rstrip(b"\r\n")
        if first_line is not None:
            if content.lower().startswith(b"warc-type:"):
                if record is not None:
                    yield record
                record, in_headers = TextRecord(first_line[0]), True
            else:
                record = _extended(record, *first_line, max_block_bytes)
            first_line = None
        if content in _FIRST_LINE and line is not None:
            first_line = (position, line)
        elif in_headers and record is not None:
            name, colon, value = content.decode("utf-8", "replace").partition(":")
            if colon:
                record.headers[name.strip().lower()] = value.strip()
            in_headers = bool(content)
        else:
            record = _extended(record, position, line, max_block_bytes)
        position += max_block_bytes + 1 if line is None else len(line)
    if first_line is not None:
        record = _extended(record, *first_line, max_block_bytes)
    if record is not None:
        yield record


def _extended(
    record: TextRecord | None, position: int, line: bytes | None, max_block_bytes: int
) -> TextRecord:
    record = record or TextRecord(position)
    record.size += max_block_bytes + 1 if line is None else len(line)
    if line is not None and record.size <= max_block_bytes:
        record.body.append(line)
    return record
