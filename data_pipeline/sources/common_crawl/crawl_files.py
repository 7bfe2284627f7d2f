"""Reads CommonCrawl: crawled pages (WARC), and text extracted by CommonCrawl (WET).

Files: `*.warc`, `*.warc.wet` or `*.wet`, compressed or not, and CCNet's plain form `*.warc.txt`.
A page becomes a document with its main content; a WET record with its text. Every other record is
counted by its type. CCNet's next steps (language, perplexity) and the paper's classifier are edits
and filters in `filters/`: `language`, `perplexity`, `reference_classifier`.
"""

from __future__ import annotations

from collections.abc import Iterator

from fastwarc.warc import WarcRecordType

from data_pipeline.document import Document, Rejected
from data_pipeline.files.compressed import DAMAGE, one_line, open_stream, uncompressed_name
from data_pipeline.files.inputs import InputFile, Inputs, NotRead, walk
from data_pipeline.files.remote import Root
from data_pipeline.sources.common_crawl.html_page import PageError, decode_body, is_html, read_page
from data_pipeline.sources.common_crawl.warc import Block, Damage, records
from data_pipeline.sources.common_crawl.wet_text import TextRecord, text_records
from data_pipeline.text.decoding import NotTextError, clean, decode

_RECORD_SUFFIXES = (".warc", ".wet")
_TEXT_SUFFIXES = (".warc.txt", ".wet.txt")
_OTHER_FORMATS = (
    (
        (".arc",),
        NotRead("arc", "ARC files (before 2013) are not read; convert them to WARC with warctools"),
    ),
    (
        (".paths",),
        NotRead("paths_list", "a list of addresses; download the files that it names"),
    ),
    (
        (".parquet", ".cdx", ".cdxj"),
        NotRead("crawl_index", "the index of a crawl has no pages; download its WARC or WET files"),
    ),
    (
        (".wacz", ".megawarc.tar", ".tar", ".zip"),
        NotRead("packed_warc", "WARC files in an archive; unpack it"),
    ),
    (
        (".warc.gz.open", ".warc.open"),
        NotRead("unfinished_warc", "a crawler is still writing it; close it, and drop .open"),
    ),
    (
        (".html", ".htm"),
        NotRead("saved_page", "a page without its address; WARC and WET files are read"),
    ),
    (
        (".json", ".jsonl", ".ndjson", ".arrow", ".csv"),
        NotRead(
            "rows_not_a_crawl",
            "rows of text, such as CCNet's or RedPajama's, have passed filters already; give them "
            "a source of their own (docs/data.md, your own corpus)",
        ),
    ),
)
_OK = 200
# WARC record types, ISO 28500, section 6; a header may have any, and reasons are counted by name.
_RECORD_KINDS = frozenset(
    {
        *("warcinfo", "response", "resource", "request"),
        *("metadata", "revisit", "conversion", "continuation"),
    }
)
_SOFT_HYPHEN = "\u00ad"
"""Marks where a browser may break a word; invisible otherwise."""


def inputs(root: Root) -> Inputs:
    """The WARC and WET files under `root`. WAT files (metadata) have no text: reason "wat"."""

    def why_ignored(file: InputFile) -> str | NotRead | None:
        name = uncompressed_name(file.path.name)
        if name.endswith(".wat"):
            return "wat"
        if name.endswith(_RECORD_SUFFIXES + _TEXT_SUFFIXES):
            return None
        if name.startswith("cdx-"):
            name = ".cdx"
        known = (why for suffixes, why in _OTHER_FORMATS if name.endswith(suffixes))
        return next(known, "unknown_kind")

    return walk(root, follow_symlinks=True).without(why_ignored)


def read(file: InputFile, *, max_block_bytes: int) -> Iterator[Document | Rejected]:
    """Stream the documents of one file, with a drop reason for each record that is none.

    `offset` is the byte offset of the record: in the file if it is not compressed or compressed
    record by record (as CommonCrawl's), else in the decompressed stream. Records beyond
    `max_block_bytes` are not read into memory.
    """
    num_records = 0
    items: Iterator[Document | Rejected]
    try:
        if _is_plain_text_form(file):
            items = _read_text_form(file, max_block_bytes)
        else:
            blocks = records(file.path, max_block_bytes=max_block_bytes)
            items = (_read_block(block, file, max_block_bytes) for block in blocks)
        for item in items:
            num_records += 1
            yield item
        if num_records == 0:
            yield Rejected("empty", file.source_file)
    except OSError as error:
        yield Rejected("unreadable", file.source_file, detail=str(error))


def _is_plain_text_form(file: InputFile) -> bool:
    """By its name, or because the first line ends with a bare newline, which WARC forbids."""
    if uncompressed_name(file.path.name).endswith(_TEXT_SUFFIXES):
        return True
    try:
        with open_stream(file.path) as stream:
            first = stream.readline(16)
    except (FileNotFoundError, PermissionError):
        raise
    except DAMAGE:
        return False
    return first.startswith(b"WARC/") and first.endswith(b"\n") and not first.endswith(b"\r\n")


def _read_text_form(file: InputFile, max_block_bytes: int) -> Iterator[Document | Rejected]:
    offset = 0
    try:
        with open_stream(file.path) as stream:
            for record in text_records(stream, max_block_bytes=max_block_bytes):
                offset = record.offset
                yield _read_text_record(record, file, max_block_bytes)
    except (FileNotFoundError, PermissionError):
        raise
    except DAMAGE as error:
        yield Rejected("damaged", file.source_file, offset, one_line(error))


def _read_text_record(
    record: TextRecord, file: InputFile, max_block_bytes: int
) -> Document | Rejected:
    kind = record.headers.get("warc-type", "")
    if not record.headers:
        detail = "not a WARC record"
        return Rejected("damaged", file.source_file, record.offset, detail)
    if kind.lower() != "conversion":
        return _not_a_page(kind.lower(), file, record.offset)
    if record.size > max_block_bytes:
        return _too_large(record.size, max_block_bytes, file, record.offset)
    url, date = record.headers.get("warc-target-uri"), record.headers.get("warc-date")
    return _text_document(record.content, file, record.offset, url, date)


def _read_block(block: Block | Damage, file: InputFile, max_bytes: int) -> Document | Rejected:
    place = (file.source_file, block.offset)
    if isinstance(block, Damage):
        return Rejected(block.reason, *place, block.detail)
    record = block.record
    kind = record.record_type
    if block.is_too_large:
        return _too_large(record.content_length, max_bytes, file, block.offset)
    url, date = record.headers.get("WARC-Target-URI"), record.headers.get("WARC-Date")
    if kind == WarcRecordType.conversion:
        return _text_document(block.payload, file, block.offset, url, date)
    http = record.http_headers
    if kind == WarcRecordType.resource:
        content_type = record.headers.get("Content-Type")
        transfer = content = charset = None
    elif kind == WarcRecordType.response:
        if http is None:
            return Rejected("not_http", *place, f"{record.headers.get('Content-Type')} {url}")
        if http.status_code != _OK:
            return Rejected("http_status", *place, f"{http.status_code} {url}")
        content_type, charset = record.http_content_type, record.http_charset
        transfer, content = http.get("Transfer-Encoding"), http.get("Content-Encoding")
    else:
        return _not_a_page(str(kind), file, block.offset)
    if not is_html(content_type, block.payload):
        return Rejected("not_html", *place, f"{content_type} {url}")
    try:
        page = read_page(decode_body(block.payload, transfer, content, max_bytes), charset)
    except PageError as error:
        return Rejected(error.reason, *place, f"{error} {url}")
    text = clean(page.text).replace(_SOFT_HYPHEN, "").strip()
    return Document(text, *place, url=_plain_url(url), title=page.title, timestamp=date)


def _text_document(
    content: bytes, file: InputFile, offset: int, url: str | None, date: str | None
) -> Document | Rejected:
    try:
        text = clean(decode(content)).replace(_SOFT_HYPHEN, "").strip("\n")
    except NotTextError as error:
        return Rejected(error.reason, file.source_file, offset, f"{error} {url}")
    return Document(text, file.source_file, offset, url=_plain_url(url), timestamp=date)


def _not_a_page(kind: str, file: InputFile, offset: int) -> Rejected:
    if kind not in _RECORD_KINDS:
        return Rejected("unknown_record", file.source_file, offset, kind[:100] or None)
    return Rejected(f"{kind}_record", file.source_file, offset)


def _too_large(size: int, max_bytes: int, file: InputFile, offset: int) -> Rejected:
    detail = f"{size} bytes, above the limit of {max_bytes}"
    return Rejected("too_large", file.source_file, offset, detail)


def _plain_url(url: str | None) -> str | None:
    """Without the angle brackets that some writers add (WARC 1.0's grammar has them)."""
    return clean(url).strip().removeprefix("<").removesuffix(">") if url else None
