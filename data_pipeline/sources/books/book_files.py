"""Reads books: Project Gutenberg's texts, other plain texts, and one book per line or row.

A plain text is one book, unless its lines are so long that each must be a book: at least
`book_line_characters` characters on average over the first MiB (a paragraph on a line has a few
hundred). JSON lines and Parquet have one book per row, in the field `text_field`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from data_pipeline.document import Document, Rejected
from data_pipeline.files.archives import open_file
from data_pipeline.files.compressed import (
    DAMAGE,
    Stream,
    chunks,
    lines,
    one_line,
    uncompressed_name,
)
from data_pipeline.files.inputs import InputFile, Inputs, NotRead, walk
from data_pipeline.files.remote import Root
from data_pipeline.sources.books import gutenberg
from data_pipeline.sources.rows import is_json, is_parquet, read_documents
from data_pipeline.text.decoding import NotTextError, clean, decode, detect_encoding

TEXT_SUFFIXES = frozenset({".txt", ".text"})
_TEXT_ENDINGS = (*sorted(TEXT_SUFFIXES), ".txt.utf-8", ".txt.utf8")
"""The longer ones are Project Gutenberg's."""
_ADVICE = (
    "Project Gutenberg has every such book as plain text, too (1342-0.txt); convert other books to "
    ".txt or rows"
)
_OTHER_FORMATS = (
    (("-h.zip", ".html", ".htm", ".xhtml", ".html.images", ".html.noimages", ".html.utf8"),
     NotRead("html_book", f"HTML is not read: {_ADVICE}")),
    ((".epub", ".epub3.images", ".epub.images", ".epub.noimages"),
     NotRead("epub", f"EPUB is not read: {_ADVICE}")),
    ((".mobi", ".azw", ".azw3", ".kf8.images", ".kindle.images", ".kindle.noimages", ".pdb", ".pdf",
      ".djvu", ".fb2"),
     NotRead("e_book", f"formats of e-book readers are not read: {_ADVICE}")),
    ((".doc", ".docx", ".odt", ".rtf", ".tex", ".tei"),
     NotRead("word_processor", f"word processors' formats are not read: {_ADVICE}")),
    ((".arrow",), NotRead("arrow", "a cache of Hugging Face datasets; take Parquet or JSON lines")),
    ((".rdf", ".csv"), NotRead("catalog", "a catalog has no books")),
    ((".tar", ".tgz", ".tbz2", ".txz"), NotRead("tar", "unpack it: tar xf FILE")),
    ((".rar",), NotRead("rar", "unpack it: unrar x FILE")),
    ((".7z",), NotRead("seven_zip", "unpack it: 7z x FILE")),
)  # fmt: skip
_PEEK_BYTES = 1 << 20
_ONE_BYTE_NEWLINE = frozenset({"utf-8", "utf-8-sig", "cp1252", "latin-1"})


def inputs(root: Root) -> Inputs:
    """All plain texts, .zip archives of one, JSON lines and Parquet files under `root`, or `root`
    itself."""
    return walk(root, follow_symlinks=True).without(_why_ignored)


def read(
    file: InputFile, *, text_field: str, max_book_bytes: int, book_line_characters: int
) -> Iterator[Document | Rejected]:
    """Stream the books of a file. Offset: None for a whole file, else line from 1 or row from 0."""
    if is_json(file.path) or is_parquet(file.path):
        # An escaped character takes six bytes.
        for item in read_documents(file, text_field=text_field, max_line_bytes=6 * max_book_bytes):
            if isinstance(item, Document) and len(item.text) > max_book_bytes:
                yield item.rejected("too_large", item.title)
            else:
                yield item
        return
    try:
        if _has_book_lines(file.path, book_line_characters):
            yield from _read_lines(file, max_book_bytes)
        else:
            yield _read_whole(file, max_book_bytes)
    except NotTextError as error:
        yield Rejected(error.reason, file.source_file, detail=str(error))
    except (FileNotFoundError, PermissionError) as error:
        yield Rejected("unreadable", file.source_file, detail=str(error))
    except DAMAGE as error:
        yield Rejected("damaged", file.source_file, detail=one_line(error))


def without_gutenberg(document: Document, *, keep_copyrighted: bool) -> Document | Rejected:
    """Edit: strip a Project Gutenberg file to the book; header metadata is moved to the fields.

    A few of its books are under copyright and distributed with permission.
    """
    if not gutenberg.is_gutenberg(document.text):
        return document
    header = gutenberg.header(document.text)
    if header.license == gutenberg.COPYRIGHTED and not keep_copyrighted:
        return document.rejected("copyrighted", header.title)
    by = f" by {header.author}" if header.title and header.author else ""
    number = header.number
    text = gutenberg.book(document.text)
    # Some files contain another Project Gutenberg file.
    while gutenberg.is_gutenberg(text) and len(inner := gutenberg.book(text)) < len(text):
        text = inner
    return replace(
        document,
        text=text,
        title=f"{header.title}{by}" if header.title else document.title,
        language=header.language or document.language,
        timestamp=header.released or document.timestamp,
        url=f"https://www.gutenberg.org/ebooks/{number}" if number else document.url,
        license=header.license if header.license == gutenberg.PUBLIC_DOMAIN else None,
    )


def _why_ignored(file: InputFile) -> str | NotRead | None:
    name = uncompressed_name(file.path.name)
    known = (why for endings, why in _OTHER_FORMATS if name.endswith(endings))
    if (why := next(known, None)) is not None:
        return why
    is_rows = is_json(file.path) or is_parquet(file.path)
    return None if is_rows or name.endswith((*_TEXT_ENDINGS, ".zip")) else "unknown_kind"


def _open(path: Path) -> AbstractContextManager[Stream]:
    return open_file(path, lambda name: name.lower().endswith(_TEXT_ENDINGS), "text file")


def _has_book_lines(path: Path, book_line_characters: int) -> bool:
    with _open(path) as stream:
        head = stream.read(_PEEK_BYTES)
    found = [line for line in head.split(b"\n") if line.strip()]
    return bool(found) and sum(map(len, found)) >= book_line_characters * len(found)


def _read_whole(file: InputFile, max_book_bytes: int) -> Document | Rejected:
    with _open(file.path) as stream:
        data = stream.read(max_book_bytes + 1)
    if len(data) > max_book_bytes:
        return Rejected("too_large", file.source_file, detail=f"over {max_book_bytes} bytes")
    return Document(clean(_decode(data)), file.source_file)


def _decode(data: bytes) -> str:
    """As UTF-8 or UTF-16 if valid, else in the encoding that its header declares, else as
    `decode`."""
    try:
        encoding = detect_encoding([data] if data else [])
    except NotTextError as error:
        if error.reason == "binary":
            raise
        encoding = ""
    declared = gutenberg.declared_encoding(data)
    if declared is not None and encoding in ("", "cp1252", "latin-1"):
        try:
            return data.decode(declared)
        except UnicodeDecodeError:
            pass
    return decode(data)


def _read_lines(file: InputFile, max_book_bytes: int) -> Iterator[Document | Rejected]:
    with _open(file.path) as stream:
        encoding = detect_encoding(chunks(stream))
    if encoding not in _ONE_BYTE_NEWLINE:
        yield _read_whole(file, max_book_bytes)
        return
    number = 0
    try:
        with _open(file.path) as stream:
            for number, line in enumerate(lines(stream, max_book_bytes), start=1):
                if line is None:
                    detail = f"line {number} has over {max_book_bytes} bytes"
                    yield Rejected("too_large", file.source_file, number, detail)
                elif line.strip():
                    text = clean(line.decode(encoding, "replace")).strip("\n")
                    yield Document(text, file.source_file, number)
    except DAMAGE as error:
        yield Rejected("damaged", file.source_file, number, one_line(error))
