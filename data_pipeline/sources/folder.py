"""Reads a user's own folder, or single file, of plain text, JSON lines and Parquet.

Plain text and JSON lines may be compressed (.gz, .zst). Reading is streaming: memory does not grow
with file size.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from data_pipeline.document import Document, Rejected
from data_pipeline.files.compressed import DAMAGE, chunks, one_line, open_stream, uncompressed_name
from data_pipeline.files.inputs import InputFile, Inputs, walk
from data_pipeline.files.remote import Root
from data_pipeline.sources.rows import is_json, is_parquet, read_documents
from data_pipeline.text.decoding import NotTextError, clean, detect_encoding

TEXT_SUFFIXES = frozenset({".txt", ".text", ".md", ".markdown", ".rst", ".org", ".adoc", ".tex"})


def inputs(root: Root) -> Inputs:
    """All files under `root` (or `root` itself) in a format that `read` supports.

    Symbolic links are followed within `root`, because datasets are often assembled from links.
    """
    tree = walk(root, follow_symlinks=True)
    return tree.without(lambda file: "unknown_kind" if _kind(file.path) == "unknown" else None)


def read(
    file: InputFile, *, text_field: str, max_document_bytes: int
) -> Iterator[Document | Rejected]:
    """Stream the documents of one file; what cannot be read is rejected with its position.

    Plain text beyond `max_document_bytes` is split into documents of at most that size: at blank
    lines, or at line ends where a paragraph is longer, or within very long lines. JSON lines and
    Parquet have their text in the field `text_field`.
    """
    try:
        if _kind(file.path) == "text":
            yield from _read_plain_text(file, max_document_bytes)
        else:
            yield from read_documents(file, text_field=text_field)
    except NotTextError as error:
        yield Rejected(error.reason, file.source_file, detail=str(error))
    except (FileNotFoundError, PermissionError) as error:
        yield Rejected("unreadable", file.source_file, detail=str(error))


def _kind(path: Path) -> str:
    if is_parquet(path) or is_json(path):
        return "rows"
    suffix = PurePosixPath(uncompressed_name(path.name)).suffix
    return "text" if suffix in TEXT_SUFFIXES else "unknown"


def _read_plain_text(file: InputFile, max_document_bytes: int) -> Iterator[Document | Rejected]:
    offset = 0
    try:
        with open_stream(file.path) as stream:
            encoding = detect_encoding(chunks(stream))
        with (
            open_stream(file.path) as stream,
            io.TextIOWrapper(stream, encoding, errors="replace") as decoded,
        ):
            for piece in cut_at_blank_lines(decoded, max_document_bytes):
                yield Document(clean(piece), file.source_file, offset)
                offset += len(piece)
        if offset == 0:
            yield Rejected("empty", file.source_file)
    except (FileNotFoundError, PermissionError):
        raise
    except DAMAGE as error:
        yield Rejected("damaged", file.source_file, offset, one_line(error))


def cut_at_blank_lines(lines: io.TextIOBase, max_bytes: int) -> Iterator[str]:
    """Split a text stream into chunks of at most `max_bytes` UTF-8 bytes; concatenated, they are
    the text.

    Each chunk ends with the last blank line that fits, else with the last line end; lines longer
    than a quarter of a chunk may be split anywhere.
    """
    # A character has up to four bytes: a line read with this many characters always fits.
    max_characters = max(1, max_bytes // 4)
    paragraphs: list[str] = []
    size = 0
    tail: list[str] = []
    tail_size = 0
    at_line_start = True
    while line := lines.readline(max_characters):
        line_size = len(line.encode("utf-8", "surrogatepass"))
        if size + tail_size + line_size > max_bytes:
            if paragraphs:
                yield "".join(paragraphs)
                paragraphs, size = [], 0
            if tail_size + line_size > max_bytes:
                yield "".join(tail)
                tail, tail_size = [], 0
        tail.append(line)
        tail_size += line_size
        if at_line_start and not line.strip():
            paragraphs += tail
            size += tail_size
            tail, tail_size = [], 0
        at_line_start = line.endswith("\n")
    if rest := "".join(paragraphs + tail):
        yield rest
