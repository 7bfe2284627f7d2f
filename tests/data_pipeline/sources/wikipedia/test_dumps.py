"""Wikipedia's dumps: which files, which pages, damage, and the residue in real articles."""

import bz2
import gzip
import lzma
import random
import re
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.document import Document, Rejected
from data_pipeline.files.inputs import InputFile
from data_pipeline.sources import wikipedia
from data_pipeline.sources.wikipedia.dumps import language_of_name
from recipes.llama1_corpus import WIKIPEDIA_LANGUAGES, wikipedia_source
from tests.support.nasty_wikipedia import dump, nasty_wikipedia, page

Item = Document | Rejected
MAX_PAGE_BYTES = 200_000


def read_file(path: Path, data: bytes | str) -> list[Item]:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    info = path.stat()
    file = InputFile(path, path.name, info.st_size, info.st_mtime_ns)
    return list(wikipedia.read(file, languages=WIKIPEDIA_LANGUAGES, max_page_bytes=MAX_PAGE_BYTES))


def summary(items: list[Item]) -> list[tuple[str, int | None]]:
    return [(i.text if isinstance(i, Document) else i.reason, i.offset) for i in items]


def test_which_files_are_read(tmp_path: Path) -> None:
    read = [
        "dewiki/dewiki-20220701-pages-articles.xml.bz2",
        "enwiki/anything.xml",
        "enwiki/enwiki-20220701-pages-articles1.xml-p1p41242.bz2",
        "enwiki/enwiki-20220701-pages-articles27.xml-p1p2.bz2",
        "enwiki/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2",
        "frwiki-latest-pages-articles-multistream.xml.bz2",
        "loose.xml.gz",
        "nlwiki/a.xml.xz",
    ]
    ignored = {
        "dewiki/dewiki-20220701-pages-articles-multistream.xml.bz2": "same_dump_in_another_form",
        "dewiki/dewiki-20220701-pages-articles1.xml-p1p9.bz2": "same_dump_in_another_form",
        "dewiki/dewiki-20220701-pages-meta-history.xml.bz2": "not_articles",
        "dewiki/dewiki-20220701-stub-articles.xml.gz": "not_articles",
        "dewiki/dewiki-20220701-abstract.xml.gz": "not_articles",
        "dewiki/dewiki-20220701-pages-articles-multistream-index.txt.bz2": "not_articles",
        "dewiki/md5sums.txt": "unknown_kind",
        "dewiktionary-20220701-pages-articles.xml.bz2": "not_wikipedia",
        "enwiki/enwiki-20220701-pages-articles-multistream1.xml-p1p41242.bz2": (
            "same_dump_in_another_form"
        ),
        "commonswiki-20220701-pages-articles.xml.bz2": "language_not_wanted",
        "jawiki/jawiki-20220701-pages-articles.xml.bz2": "language_not_wanted",
        "zh_min_nanwiki-20220701-pages-articles.xml.bz2": "language_not_wanted",
    }
    for name in (*read, *ignored):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = wikipedia.inputs(tmp_path, languages=WIKIPEDIA_LANGUAGES)
    assert [file.source_file for file in found.files] == read
    assert {item.source_file: item.reason for item in found.ignored} == ignored


@pytest.mark.parametrize(
    ("name", "language"),
    [
        ("dewiki-20220701-pages-articles.xml.bz2", "de"),
        ("enwiki/dewiki.xml", "de"),
        ("old/enwiki/part-1.xml", "en"),
        ("be_x_oldwiki-latest.xml", "be-x-old"),
        ("wiki/dump.xml", None),
        ("dewikibooks-latest.xml", None),
    ],
)
def test_language_of_name(name: str, language: str | None) -> None:
    assert language_of_name(name) == language


def test_articles_only(tmp_path: Path) -> None:
    old = page(9, "old", title="Benutzer:A").replace("<ns>0</ns>", "")
    items = read_file(
        tmp_path / "dewiki.xml",
        dump(
            page(1, "text [[Datei:a.jpg]] [[datei : b.jpg]]", title="A & B/C?"),
            page(2, "talk", ns=1),
            page(3, "#REDIRECT [[A]]"),
            page(4, "x").replace("<revision>", '<redirect title="A" /><revision>'),
            page(5, ""),
            page(6, "x").replace("<text>", '<text deleted="deleted">'),
            page(7, "x").replace("wikitext</model>", "css</model>"),
            page(8, "x", title=" "),
            old.replace("Benutzer", "User"),
        ),
    )
    assert summary(items) == [
        ("text [[File:a.jpg]] [[File: b.jpg]]", 1),
        ("not_article_namespace", 2),
        ("redirect", 3),
        ("redirect", 4),
        ("no_text", 5),
        ("no_text", 6),
        ("not_wikitext", 7),
        ("damaged_page", 8),
        ("not_article_namespace", 9),
    ]
    article = items[0]
    assert isinstance(article, Document)
    assert article.url == "https://de.wikipedia.org/wiki/A_%26_B/C%3F"
    assert (article.title, article.language) == ("A & B/C?", "de")
    assert (article.license, article.timestamp) == ("CC-BY-SA-3.0", "2022-07-01T00:00:00Z")


def test_newest_revision_and_its_license(tmp_path: Path) -> None:
    second = (
        "<revision><id>2</id><timestamp>2023-06-07T00:00:00Z</timestamp><text>new</text></revision>"
    )
    changed = page(1, "old").replace("<revision>", second + "<revision>")
    (article,) = read_file(tmp_path / "dewiki.xml", dump(changed))
    assert isinstance(article, Document)
    assert (article.text, article.license) == ("new", "CC-BY-SA-4.0")


def test_file_name_wins_over_site_info_and_that_is_counted(tmp_path: Path) -> None:
    note, article = read_file(tmp_path / "enwiki.xml", dump(page(1, "x")))
    assert isinstance(note, Rejected)
    assert (note.reason, note.detail) == (
        "site_info_disagrees",
        "the file's name says en, its site information de",
    )
    assert isinstance(article, Document)
    assert article.language == "en"


@pytest.mark.parametrize(
    ("name", "head", "expected"),
    [
        ("loose.xml", '<mediawiki xml:lang="fr">', ["x"]),
        ("loose.xml", '<mediawiki xml:lang="ja">', ["language_not_wanted"]),
        ("loose.xml", "<mediawiki>", ["language_unknown"]),
        ("dewiki.xml", "<mediawiki>", ["x"]),
    ],
)
def test_language_without_a_name(tmp_path: Path, name: str, head: str, expected: list[str]) -> None:
    items = read_file(tmp_path / name, f"{head}{page(1, 'x')}</mediawiki>")
    assert [text for text, _ in summary(items)] == expected


WHOLE = dump(page(1, "one"), page(2, "two " * 500), page(3, "three"))
TWO = ("two " * 500, 2)


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a.xml.gz", gzip.compress(WHOLE.encode()), [("one", 1), TWO, ("three", 3)]),
        ("a.xml.xz", lzma.compress(WHOLE.encode()), [("one", 1), TWO, ("three", 3)]),
        ("a.xml", WHOLE.encode("utf-16"), [("one", 1), TWO, ("three", 3)]),
        (
            "a.xml.bz2",  # multistream: one stream after another
            bz2.compress(WHOLE[:900].encode()) + bz2.compress(WHOLE[900:].encode()),
            [("one", 1), TWO, ("three", 3)],
        ),
        ("a.xml", WHOLE[:-10], [("one", 1), TWO, ("three", 3), ("truncated", 3)]),
        ("a.xml", WHOLE[:900], [("one", 1), ("damaged_page", 2), ("truncated", 2)]),
        (
            "a.xml.bz2",
            bz2.compress(WHOLE[:900].encode()) + bz2.compress(WHOLE[900:].encode())[:-9],
            [("one", 1), TWO, ("three", 3), ("damaged", 3)],
        ),
        ("a.xml.gz", b"no gzip", [("damaged", None)]),
        ("a.xml", WHOLE.replace("one", "a & b", 1).replace("&amp;", "&"), None),
        ("a.xml", WHOLE.replace("</page>", "", 1), [("damaged_page", 1), TWO, ("three", 3)]),
        ("a.xml", page(1, "x"), [("x", 1), ("fragment", None)]),
        ("a.xml", "", [("no_pages", None)]),
        ("a.xml", "<html>no dump</html>", [("no_pages", None)]),
        ("a.xml", dump(page(1, "x" * 300_000), page(2, "y")), [("page_too_large", 1), ("y", 2)]),
    ],
)
def test_damage_is_counted_with_its_place(
    tmp_path: Path, name: str, data: bytes | str, expected: list[tuple[str, int | None]] | None
) -> None:
    expected = expected or [("damaged_page", 1), TWO, ("three", 3)]
    assert summary(read_file(tmp_path / f"dewiki-{name}", data)) == expected


def test_bad_bytes_cost_themselves_only(tmp_path: Path) -> None:
    data = dump(page(1, "aXb")).encode().replace(b"aXb", b"a\xff\x01b")
    assert summary(read_file(tmp_path / "dewiki.xml", data)) == [("a\ufffdb", 1)]


def test_a_reference_to_a_surrogate_in_the_head_costs_itself_only(tmp_path: Path) -> None:
    data = dump(page(1, "ab")).replace("<mediawiki", '<mediawiki xml:lang="de&#55296;"', 1)
    assert summary(read_file(tmp_path / "dewiki.xml", data)) == [("ab", 1)]


def test_missing_file(tmp_path: Path) -> None:
    file = InputFile(tmp_path / "dewiki.xml", "dewiki.xml", 0, 0)
    (item,) = wikipedia.read(file, languages=WIKIPEDIA_LANGUAGES, max_page_bytes=10)
    assert isinstance(item, Rejected)
    assert item.reason == "unreadable"


def test_edits() -> None:
    document = Document("'''A''' is [[b]].", "dewiki.xml", 1, title="A")
    kept = wikipedia.drop_disambiguation(document)
    assert isinstance(kept, Document)
    text = wikipedia.to_text(kept)
    assert isinstance(text, Document)
    assert text.text == "A is b."
    for dropped, reason in (
        (wikipedia.drop_disambiguation(document.with_text("{{disambig}}")), "disambiguation"),
        (wikipedia.to_text(document.with_text("{{" * 500)), "too_deeply_nested"),
    ):
        assert isinstance(dropped, Rejected)
        assert (dropped.reason, dropped.offset) == (reason, 1)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32))
def test_every_input_is_accounted_for(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    folder = tmp_path_factory.mktemp("nasty")
    for name, data in nasty_wikipedia(random.Random(seed)):
        items = read_file(folder / name, data)
        assert items, name
        assert b"lollollol" not in repr(items).encode()
        assert all(item.source_file == name for item in items)
        for item in items:
            if isinstance(item, Document):
                assert isinstance(wikipedia.to_text(item), Document | Rejected)


def test_memory_stays_flat(tmp_path: Path) -> None:
    """64 MB of pages, and a page of 64 MB, in little more than a page's limit."""
    path = tmp_path / "dewiki.xml.gz"
    with gzip.open(path, "wt", compresslevel=1) as file:
        file.write("<mediawiki>")
        for number in range(640):
            file.write(page(number, "word " * 20_000))
        file.write("<page>" + "x" * (64 << 20))
    info = path.stat()
    source = InputFile(path, path.name, info.st_size, info.st_mtime_ns)
    tracemalloc.start()
    items = wikipedia.read(source, languages=WIKIPEDIA_LANGUAGES, max_page_bytes=MAX_PAGE_BYTES)
    num_items = sum(1 for _ in items)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert num_items == 642  # and one that is too large, in a file that is cut
    assert peak < 3_000_000


RESIDUE = {
    name: re.compile(pattern)
    for name, pattern in {
        "thumb|": r"thumb\|",
        "Category:": r"\b[Cc]ategory:",
        "<ref": r"<ref",
        "{{": r"\{\{",
        "[[": r"\[\[",
        "|}": r"\|\}",
        "{|": r"^\{\|",
        "table cell": r"^[|!]",
        "attribute": r"\b(?:style|class|colspan|rowspan)\s*=",
        "address": r"https?://",
        "entity": r"&(?:nbsp|lt|gt|amp);",
    }.items()
}


@pytest.mark.slow
def test_samples(samples: Path) -> None:
    """Every real file is read, and no markup of the main kinds is left in any article."""
    source = wikipedia_source()
    found = source.inputs(samples / "raw" / "wikipedia")
    reasons: Counter[str] = Counter(item.reason for item in found.ignored)
    residue: Counter[str] = Counter()
    num_characters = 0
    languages: set[str | None] = set()
    for file in found.files:
        for item in source.read(file):
            result: Item = item
            for edit in source.edits:
                result = edit(result) if isinstance(result, Document) else result
            reasons["kept" if isinstance(result, Document) else result.reason] += 1
            if isinstance(result, Document):
                languages.add(result.language)
                num_characters += len(result.text)
                residue.update({name: len(p.findall(result.text)) for name, p in RESIDUE.items()})
    assert num_characters > 8_000_000
    assert languages >= {
        "bg",
        "cs",
        "de",
        "en",
        "es",
        "fr",
        "hu",
        "it",
        "nl",
        "pl",
        "ro",
        "ru",
        "sr",
    }
    assert reasons["language_not_wanted"] == 2
    assert reasons["site_info_disagrees"] > 10
    assert reasons["fragment"] == 1
    assert min(reasons[name] for name in ("redirect", "disambiguation", "damaged_page")) > 0
    assert reasons["kept"] > 700
    assert not +residue, "markup is left"
