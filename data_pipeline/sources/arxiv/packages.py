"""Reads arXiv source packages, one paper each, as single files or in bulk files.

A package is a gzip or bzip2 file of one TeX file or of a tar archive, a tar or zip archive, or a
PDF file; its magic bytes decide, not its name. A bulk file (`arXiv_src_*.tar`) is a tar archive of
packages (`YYMM/<id>.gz`, `YYMM/<id>.pdf`). The offset of a document is the byte offset of its
member in the bulk file; None for a single package. A paper's text is its main file with all that it
includes; its identity and month come from the file's name.

arXiv has each paper's license in its metadata and not in the source: license is None.
"""

from __future__ import annotations

import bz2
import gzip
import io
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from data_pipeline.document import Document, Rejected
from data_pipeline.files.compressed import DAMAGE, one_line
from data_pipeline.files.inputs import InputFile, Inputs, NotRead, walk
from data_pipeline.files.remote import Root
from data_pipeline.files.tar_stream import MemberKind, Readable, is_tar, members
from data_pipeline.sources.arxiv import sections as latex
from data_pipeline.sources.arxiv.acronyms import expand_acronyms
from data_pipeline.sources.arxiv.expansion_input import MacroExplosionError
from data_pipeline.sources.arxiv.macros import expand_macros
from data_pipeline.sources.arxiv.package_files import UnusableError, files_of_tar, files_of_zip
from data_pipeline.sources.arxiv.project import (
    ProjectTooLargeError,
    decode_project,
    is_withdrawn,
    main_file,
    merged,
)
from data_pipeline.sources.arxiv.title import title_of
from data_pipeline.text.decoding import NotTextError, clean

_SUFFIXES = (".gz", ".tar", ".tgz", ".pdf", ".bz2", ".tbz", ".tbz2", ".zip")
_OTHER_FORMATS = (
    (
        (".tex", ".ltx", ".bbl", ".sty", ".cls"),
        NotRead("unpacked_paper", "a paper is one file; pack it: tar czf ID.tar.gz -C ID ."),
    ),
    (
        (".xz", ".txz", ".zst", ".7z", ".rar", ".z"),
        NotRead("repack", "no format in which arXiv has papers; pack it again as .tar.gz"),
    ),
    (
        (".json", ".jsonl", ".ndjson", ".parquet", ".arrow", ".csv", "_manifest.xml"),
        NotRead(
            "not_a_package",
            "metadata or rows of text, no LaTeX sources; those are in s3://arxiv/src; give rows a "
            "source of their own",
        ),
    ),
    ((".ps", ".html", ".dvi"), NotRead("no_source", "an output; the reader takes LaTeX sources")),
)
_PACKED_ROWS = (".json.gz", ".jsonl.gz", ".ndjson.gz", ".csv.gz")
_NEW_ID = re.compile(r"(\d{2})(0[1-9]|1[0-2])\.\d{4,5}(?:v\d+)?")
_DOWNLOAD = re.compile(r"^arxiv[-_:. ]+|[ _]?\(\d{1,2}\)$", re.IGNORECASE)
_OLD_ID = re.compile(
    r"([a-z]+(?:-[a-z]+)?)(?:\.[A-Z]{2})?[/_]?((\d{2})(0[1-9]|1[0-2])\d{3}(?:v\d+)?)"
)
_ARXIV = re.compile(r"^arxiv[-_.]", re.IGNORECASE)
"""What arXiv's own download puts before an id: arXiv-2301.00001v1.tar.gz."""
_MAX_NAME_CHARACTERS = 255
_FIRST_YEAR = 91
"""arXiv began in 1991: a smaller two-digit year is one of this century."""

_UUENCODED = re.compile(rb"[^\\]*?^begin [0-7]{3} \S+\s*\n[ -`]{61}\s*$", re.MULTILINE)
"""A uuencoded archive as it was mailed in the 1990s, after a script or words at most. Figures that
were mailed after a paper's TeX follow its end, where they are removed with the rest."""
_BZIP2 = re.compile(rb"BZh[1-9]1AY&SY")
_HEAD_BYTES = 1_024
_MAX_WITHDRAWN_BYTES = 4_000
_WITHDRAWN = re.compile(
    rb"(?:paper|article|manuscript|submission|preprint|work|version)s?\s[^.]{0,60}\bwithdrawn\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class PaperId:
    """A paper's arXiv identifier."""

    name: str
    """`2310.03240v1` or `hep-th/9901001`."""
    month: str
    """Month of submission, `2023-10`."""

    @property
    def url(self) -> str:
        return f"https://arxiv.org/abs/{self.name}"


def paper_id(file_name: str) -> PaperId | None:
    """The arXiv id in a package's file name, in the scheme of before or after April 2007."""
    stem = _ARXIV.sub("", _stem(file_name))
    if match := _NEW_ID.fullmatch(stem):
        return PaperId(stem, _month(match[1], match[2]))
    if match := _OLD_ID.fullmatch(stem):
        return PaperId(f"{match[1]}/{match[2]}", _month(match[3], match[4]))
    return None


def inputs(root: Root) -> Inputs:
    """The packages and bulk files under `root`: by suffix, or by an arXiv id as file name."""

    def why_ignored(file: InputFile) -> str | NotRead | None:
        name = file.source_file.rpartition("/")[2]
        lower = name.lower()
        if lower.endswith(_PACKED_ROWS):
            lower = lower.removesuffix(".gz")
        if lower.endswith(_SUFFIXES) or paper_id(name) is not None:
            return None
        known = (why for suffixes, why in _OTHER_FORMATS if lower.endswith(suffixes))
        return next(known, "unknown_kind")

    return walk(root, follow_symlinks=True).without(why_ignored)


def read(
    file: InputFile, *, max_package_bytes: int, max_text_bytes: int
) -> Iterator[Document | Rejected]:
    """Stream the paper of a package, or the papers of a bulk file, each with its LaTeX as one text.

    A package may unpack to at most `max_package_bytes`, of which figures are skipped and the rest,
    up to `max_text_bytes`, is held in memory.
    """
    limits = (max_package_bytes, max_text_bytes)
    offset: int | None = None
    try:
        with file.path.open("rb") as raw:
            head, stream = _peek(raw)
            if not _is_bulk(file, head):
                yield _paper(file, file.source_file, None, stream, limits)
                return
            for member, data in members(stream):
                offset = member.offset
                if member.kind is MemberKind.FILE:
                    yield _paper(file, member.name, offset, data, limits)
                elif member.kind is MemberKind.OTHER:
                    detail = f"{member.name} is a link or a device"
                    yield Rejected("not_a_file", file.source_file, offset, detail)
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        yield Rejected("unreadable", file.source_file, detail=one_line(error))
    except DAMAGE as error:
        yield Rejected("damaged", file.source_file, offset, one_line(error))


def without_comments(document: Document) -> Document:
    """Edit: strip comments."""
    return document.with_text(latex.without_comments(document.text))


def with_macros_expanded(document: Document, *, max_growth: int) -> Document | Rejected:
    """Edit: expand acronyms and user-defined macros inline, and remove their definitions."""
    try:
        text = expand_acronyms(document.text, max_growth=max_growth)
        return document.with_text(expand_macros(text, max_growth=max_growth))
    except MacroExplosionError as error:
        return document.rejected("macro_explosion", str(error))


def with_title(document: Document) -> Document:
    """Edit: extract the title, where the paper has one. The text is unchanged."""
    return replace(document, title=title_of(document.text) or document.title)


def without_front_matter_and_bibliography(
    document: Document, *, max_front_share: float
) -> Document | Rejected:
    """Edit: strip front matter (everything before the first section) and bibliography."""
    text = latex.without_front_matter_and_bibliography(
        document.text, max_front_share=max_front_share
    )
    return document.with_text(text) if text.strip() else document.rejected("no_body")


def with_tidy_lines(document: Document) -> Document:
    """Edit: strip trailing whitespace, collapse empty lines."""
    return document.with_text(latex.with_tidy_lines(document.text))


def _stem(file_name: str) -> str:
    """The last part of a path without the suffix of its type and without what arXiv's own download
    (`arXiv-2301.00005v1.tar.gz`) and browsers add. An id contains a dot itself."""
    # A member of an archive may have a name of a megabyte; an id has 20 characters.
    name = posixpath.basename(file_name)[-_MAX_NAME_CHARACTERS:]
    while name.lower().endswith(_SUFFIXES):
        name = name.rpartition(".")[0]
    return _DOWNLOAD.sub("", name)


def _month(year: str, month: str) -> str:
    century = 19 if int(year) >= _FIRST_YEAR else 20
    return f"{century}{year}-{month}"


class _Rewound(io.RawIOBase):
    """A stream whose head has been read already. OSError beyond `limit` bytes in total."""

    def __init__(self, head: bytes, rest: Readable, limit: int | None = None) -> None:
        self._head = head
        self._rest = rest
        self._left = limit

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        size = len(buffer)
        data, self._head = self._head[:size], self._head[size:]
        data = data or self._rest.read(size)
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                raise UnusableError("too_large", "unpacks to more than the limit")
        buffer[: len(data)] = data
        return len(data)


def _peek(stream: Readable, limit: int | None = None) -> tuple[bytes, io.BufferedReader]:
    """The first bytes of a stream, and the whole stream."""
    head = b""
    while len(head) < _HEAD_BYTES and (data := stream.read(_HEAD_BYTES - len(head))):
        head += data
    return head, io.BufferedReader(_Rewound(head, stream, limit), 1 << 16)


def _is_bulk(file: InputFile, head: bytes) -> bool:
    """A tar archive with the name of a bulk file, or that begins with a package."""
    if not is_tar(head):
        return False
    if "arxiv_src" in file.source_file.rpartition("/")[2].lower():
        return True
    try:
        with file.path.open("rb") as stream:
            files = (m.name for m, _ in members(stream) if m.kind is MemberKind.FILE)
            first = next(files, "")
    except DAMAGE:
        return False
    return first.lower().endswith((".gz", ".pdf")) and paper_id(first) is not None


def _paper(
    file: InputFile, name: str, offset: int | None, stream: Readable, limits: tuple[int, int]
) -> Document | Rejected:
    """The paper of one package."""
    max_package_bytes, max_text_bytes = limits
    try:
        files = _package_files(stream, max_package_bytes, max_text_bytes)
        text = _project_text(files, max_text_bytes)
    except UnusableError as error:
        reason, detail = error.reason, error.detail
    except NotTextError as error:
        reason, detail = error.reason, str(error)
    except ProjectTooLargeError as error:
        reason, detail = "too_large", str(error)
    except DAMAGE as error:
        reason, detail = "damaged", one_line(error)
    else:
        paper = paper_id(name)
        document = Document(clean(text), file.source_file, offset)
        return replace(document, url=paper.url, timestamp=paper.month) if paper else document
    where = None if offset is None else f"{name}: {detail or reason}"
    return Rejected(reason, file.source_file, offset, where or detail)


def _project_text(files: dict[str, bytes], max_text_bytes: int) -> str:
    texts = decode_project(files)
    if is_withdrawn(texts):
        raise UnusableError("withdrawn", "marked %auto-ignore")
    if sum(map(len, files.values())) < _MAX_WITHDRAWN_BYTES:
        for data in files.values():
            if match := _WITHDRAWN.search(data):
                said = " ".join(match.group().decode("ascii", "replace").split())
                raise UnusableError("withdrawn", f"says: {said}")
    main = main_file(texts, max_characters=max_text_bytes)
    if main is None:
        raise UnusableError("no_tex", f"no TeX file among {len(files)} files")
    return merged(texts, main, max_characters=max_text_bytes)


def _package_files(
    stream: Readable, max_package_bytes: int, max_text_bytes: int
) -> dict[str, bytes]:
    """The files of a package that may contain text, by their paths in it."""
    head, data = _peek(stream, max_package_bytes)
    depth = 0
    while (is_gzip := head.startswith(b"\x1f\x8b")) or _BZIP2.match(head):
        if depth == 2:
            raise UnusableError("not_tex", "compressed three times")
        depth += 1
        unpacked = gzip.GzipFile(fileobj=data) if is_gzip else bz2.BZ2File(data)
        head, data = _peek(unpacked, max_package_bytes)
    if not head:
        raise UnusableError("empty")
    if head.startswith(b"PK\x03\x04"):
        return files_of_zip(data, max_text_bytes)
    if is_tar(head):
        return files_of_tar(data, max_text_bytes)
    for magic, reason in ((b"%PDF", "pdf_only"), (b"%!", "postscript_only")):
        if head.lstrip().startswith(magic):
            raise UnusableError(reason)
    if head.lstrip().startswith(b"<"):
        raise UnusableError("not_tex", "HTML or XML")
    text = data.read(max_text_bytes + 1)
    if len(text) > max_text_bytes:
        raise UnusableError("too_large", f"has more than {max_text_bytes} bytes of text")
    if _UUENCODED.match(text, 0, 1 << 16):
        raise UnusableError("not_tex", "uuencoded")
    if not text.strip(b" \t\r\n\0"):
        raise UnusableError("empty")
    return {"main.tex": text}
