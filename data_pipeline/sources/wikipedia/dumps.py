"""Reads Wikipedia dumps: MediaWiki XML export, one file or numbered parts, compressed or not, or in
a .7z or .zip archive.

The reader yields wikitext, e.g. for extracting references; the edit `to_text` converts it to text.
`offset` is a page id, which identifies the page in the dump.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from data_pipeline.document import Document, Rejected
from data_pipeline.files.archives import open_file
from data_pipeline.files.compressed import DAMAGE, chunks, one_line, uncompressed_name
from data_pipeline.files.inputs import InputFile, Inputs, NotRead, walk
from data_pipeline.files.remote import Root
from data_pipeline.files.xml_records import Piece, RecordError, parse, parse_head, pieces, utf8
from data_pipeline.sources.wikipedia.names import is_disambiguation, is_redirect
from data_pipeline.sources.wikipedia.wikitext import WikitextError
from data_pipeline.sources.wikipedia.wikitext import to_text as wikitext_to_text
from data_pipeline.text.decoding import clean, name_set

CC_BY_SA_4_SINCE = "2023-06-07"
"""Revisions from this day on are CC BY-SA 4.0, earlier ones 3.0 (Wikimedia Terms of Use)."""

_XML_NAME = re.compile(r"\.xml(?:-p\d+p\d[\w-]*)?(?:\.(?:gz|bz2|xz|zst|7z|zip))?$", re.IGNORECASE)
_OTHER_FORMATS = (
    (
        (".json", ".jsonl", ".ndjson", ".parquet", ".arrow", ".csv", ".tar", ".tgz"),
        NotRead(
            "not_wikitext",
            "rows of extracted text, search documents or HTML, no dump; download "
            "XXwiki-DATE-pages-articles.xml.bz2, or give them a source of their own",
        ),
    ),
    (
        (".sql",),
        NotRead("sql_dump", "a table of the wiki; articles are in ...-pages-articles.xml.bz2"),
    ),
    (
        (".zim",),
        NotRead("zim", "Kiwix's format is not read; download XXwiki-DATE-pages-articles.xml.bz2"),
    ),
)
_EXTRACTED = NotRead(
    "not_wikitext",
    "WikiExtractor's output, no dump; download XXwiki-DATE-pages-articles.xml.bz2",
)
_EXTRACTED_NAME = re.compile(r"wiki_\d{2,3}")
_SPLIT_DUMP = NotRead("split_archive", "a part of an archive; join all parts in order")
_SPLIT_NAME = re.compile(r"\.(?:7z|zip)\.\d{2,4}$")
_LANGUAGE = re.compile(r"([a-z]{2,12}(?:[_-][a-z]+){0,3})wiki(?![a-z])")
_OTHER_PROJECT = re.compile(r"wiki(?:books|quote|source|news|versity|voyage)|wiktionary")
_OTHER_DUMP = re.compile(
    r"pages-(?:meta|logging)|stub-|-abstract|all-titles|-index\d*\.|siteinfo-namespaces|-history"
)
_DUMP = re.compile(
    r"(?P<wiki>[a-z_]+wiki)-(?P<date>\d{8}|latest)-pages-articles(?P<form>-multistream)?"
    r"(?P<part>\d*)\.xml(?:-p\d+p\d+)?(?:\.(?:gz|bz2|xz|zst|7z|zip))?"
)
# Namespaces by name, for dumps from before 2012, which do not number them in each page.
_OTHER_NAMESPACES = name_set(
    """
    media, special, talk, user, user talk, wikipedia, file, image, mediawiki, template, help,
    category, portal, draft, module, book, timedtext
    """
)
_CANONICAL = {"6": "File", "14": "Category"}
_ID = re.compile(rb"<id>(\d{1,18})</id>")


def inputs(root: Root, *, languages: frozenset[str]) -> Inputs:
    """All article dumps under `root` in these languages, by the names of files and folders.

    Files whose name has no language are read: their site information decides. Of one dump in
    several forms (whole, multistream, in parts) only the first form in this list is read, because
    all have the same pages.
    """
    tree = walk(root, follow_symlinks=True)
    forms: dict[tuple[str, str], int] = {}
    for file in tree.files:
        if (dump := _DUMP.fullmatch(file.path.name)) is not None:
            key = (dump["wiki"], dump["date"])
            forms[key] = min(forms.get(key, 9), _form(dump))

    def why_ignored(file: InputFile) -> str | NotRead | None:
        name = file.path.name
        if not _XML_NAME.search(name):
            if _OTHER_DUMP.search(name):
                return "not_articles"
            if _SPLIT_NAME.search(name):
                return _SPLIT_DUMP
            if _EXTRACTED_NAME.fullmatch(uncompressed_name(name)):
                return _EXTRACTED
            plain = uncompressed_name(name)
            known = (why for suffixes, why in _OTHER_FORMATS if plain.endswith(suffixes))
            return next(known, "unknown_kind")
        if _OTHER_DUMP.search(name):
            return "not_articles"
        if _OTHER_PROJECT.search(name):
            return "not_wikipedia"
        language = language_of_name(file.source_file)
        if language is not None and language not in languages:
            return "language_not_wanted"
        dump = _DUMP.fullmatch(name)
        if dump is not None and _form(dump) != forms[dump["wiki"], dump["date"]]:
            return "same_dump_in_another_form"
        return None

    return tree.without(why_ignored)


def _form(dump: re.Match[str]) -> int:
    """Whole files before parts, which may be incomplete; plain before multistream."""
    return 2 * bool(dump["part"]) + bool(dump["form"])


def language_of_name(source_file: str) -> str | None:
    """Language in a file's name, else in its nearest folder's: "de" of "dewiki-latest"."""
    for part in reversed(PurePosixPath(source_file.lower()).parts):
        if (match := _LANGUAGE.match(part)) is not None:
            return match[1].replace("_", "-")
    return None


@dataclass(frozen=True)
class _Site:
    """Site information of a dump."""

    language: str | None
    to_canonical: re.Pattern[str] | None
    """Matches links to files and categories under the wiki's localized namespace names."""
    canonical: dict[str, str]
    """Localized namespace name, in lower case -> "File" or "Category"."""
    other_namespaces: frozenset[str]


def read(
    file: InputFile, *, languages: frozenset[str], max_page_bytes: int
) -> Iterator[Document | Rejected]:
    """Stream the articles of one dump as wikitext, the newest revision of each.

    The file's name determines the language; where the dump's own site information contradicts it,
    the name is used and the dump is counted under `site_info_disagrees`. Links to files and
    categories get their canonical names ([[Datei: becomes [[File:), because only the dump has the
    wiki's localized ones. Rejected, besides pages: corrupt XML, with the id of the last page before
    it as offset, and an incomplete dump (`fragment`, `truncated`).
    """
    last_page: int | None = None
    try:
        with open_file(file.path, _is_xml, "file of XML") as stream:
            records = pieces(utf8(chunks(stream)), "page", max_page_bytes)
            head = next(records).data
            site = _site(head)
            language = language_of_name(file.source_file) or site.language
            yield from _notes(file, site, language, languages)
            if language is None or language not in languages:
                return
            last: Piece | None = None
            for last in records:
                item = _page(last, file, site, language)
                last_page = last_page if item.offset is None else item.offset
                yield item
            if last is None:
                yield Rejected("no_pages", file.source_file)
            elif b"<mediawiki" not in head:
                detail = "no <mediawiki> before the first page"
                yield Rejected("fragment", file.source_file, detail=detail)
            elif not last.data.rstrip().endswith(b"</mediawiki>"):
                detail = "the file ends before </mediawiki>"
                yield Rejected("truncated", file.source_file, last_page, detail)
    except (FileNotFoundError, PermissionError) as error:
        yield Rejected("unreadable", file.source_file, detail=str(error))
    except DAMAGE as error:
        yield Rejected("damaged", file.source_file, last_page, one_line(error))


def _is_xml(member: str) -> bool:
    return _XML_NAME.search(member) is not None


def drop_disambiguation(document: Document) -> Document | Rejected:
    """Edit: reject disambiguation pages, which are not articles."""
    if is_disambiguation(document.title, document.text):
        return document.rejected("disambiguation")
    return document


def to_text(document: Document) -> Document | Rejected:
    """Edit: convert wikitext to plain text."""
    try:
        return document.with_text(clean(wikitext_to_text(document.text)))
    except WikitextError as error:
        return document.rejected("too_deeply_nested", str(error))


def _notes(
    file: InputFile, site: _Site, language: str | None, languages: frozenset[str]
) -> Iterator[Rejected]:
    """Rejections that concern the file as a whole."""
    if language is None:
        detail = "neither the file's name nor its site information states a language"
        yield Rejected("language_unknown", file.source_file, detail=detail)
    elif language not in languages:
        detail = f"its site information says {language}"
        yield Rejected("language_not_wanted", file.source_file, detail=detail)
    elif site.language is not None and site.language != language:
        detail = f"the file's name says {language}, its site information {site.language}"
        yield Rejected("site_info_disagrees", file.source_file, detail=detail)


def _site(head: bytes) -> _Site:
    root = parse_head(head + b"</mediawiki>") if b"<mediawiki" in head else None
    language = None
    canonical: dict[str, str] = {}
    others: set[str] = set(_OTHER_NAMESPACES)
    for element in [] if root is None else root.iter():
        if not isinstance(element.tag, str):
            continue
        tag = _local_name(element.tag)
        text = (element.text or "").strip()
        if tag == "mediawiki":
            language = element.get("{http://www.w3.org/XML/1998/namespace}lang")
        elif tag == "namespace" and text:
            key = element.get("key")
            others.add(text.lower())
            # MediaWiki's names have no underscores; beside those of links one would match twice.
            name = " ".join(text.lower().replace("_", " ").split())
            if key in _CANONICAL and name and _CANONICAL[key] not in canonical.values():
                canonical[name] = _CANONICAL[key]
    names = "|".join(re.escape(name) for name in canonical)
    pattern = re.compile(rf"\[\[[ _]*({names})[ _]*:", re.IGNORECASE) if names else None
    return _Site(language, pattern, canonical, frozenset(others))


def _local_name(tag: str) -> str:
    """Local name of an element, without its XML namespace."""
    return tag.rpartition("}")[2]


def _page(piece: Piece, file: InputFile, site: _Site, language: str) -> Document | Rejected:
    """The article of a record, or the reason why it is none."""
    found = _ID.search(piece.data)
    page_id = int(found[1]) if found else None
    if piece.too_large:
        detail = f"more than {len(piece.data)} bytes"
        return Rejected("page_too_large", file.source_file, page_id, detail)
    end = piece.data.find(b"</page>")
    if end < 0:
        return Rejected("damaged_page", file.source_file, page_id, "the page is truncated")
    try:
        page = parse(piece.data[: end + len(b"</page>")])
    except RecordError as error:
        return Rejected("damaged_page", file.source_file, page_id, one_line(error))
    title = clean(page.findtext("title") or "").strip()
    revision: Any = max(
        page.iterfind("revision"), key=lambda r: r.findtext("timestamp") or "", default=None
    )
    text: Any = None if revision is None else revision.find("text")
    reason = _why_no_article(page, title, revision, text, site)
    if reason is not None:
        return Rejected(reason, file.source_file, page_id, title or None)
    timestamp = clean(revision.findtext("timestamp") or "").strip() or None
    return Document(
        text=_canonical(text.text, site),
        source_file=file.source_file,
        offset=page_id,
        url=_url(language, title),
        title=title,
        language=language,
        license=license(timestamp),
        timestamp=timestamp,
    )


def _why_no_article(page: Any, title: str, revision: Any, text: Any, site: _Site) -> str | None:
    if not title or revision is None:
        return "damaged_page"
    if _namespace(page, title, site) != "0":
        return "not_article_namespace"
    if page.find("redirect") is not None:
        return "redirect"
    if text is None or text.get("deleted") is not None:
        return "no_text"
    if (revision.findtext("model") or "wikitext") != "wikitext":
        return "not_wikitext"
    if not text.text:
        return "no_text"
    return "redirect" if is_redirect(text.text) else None


def _namespace(page: Any, title: str, site: _Site) -> str:
    """Number of a page's namespace; "0" is that of articles."""
    number = page.findtext("ns")
    if number is not None:
        return str(number).strip()
    prefix, colon, _ = title.partition(":")
    return "other" if colon and prefix.strip().lower() in site.other_namespaces else "0"


def _url(language: str, title: str) -> str:
    name = quote(title.replace(" ", "_"), safe="/:(),!;@")
    return f"https://{language}.wikipedia.org/wiki/{name}"


def _canonical(text: str, site: _Site) -> str:
    if site.to_canonical is None:
        return text

    def renamed(match: re.Match[str]) -> str:
        # A pattern that ignores case equates more than lower case does: a long s and s.
        name = site.canonical.get(match[1].lower())
        return match[0] if name is None else f"[[{name}:"

    return site.to_canonical.sub(renamed, text)


def license(timestamp: str | None) -> str:
    """SPDX id of the license of a revision, by its date."""
    newer = timestamp is not None and timestamp >= CC_BY_SA_4_SINCE
    return "CC-BY-SA-4.0" if newer else "CC-BY-SA-3.0"
