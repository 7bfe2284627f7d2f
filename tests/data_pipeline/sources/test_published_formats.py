"""Every format in which this field publishes its sources is read, or refused in words that help."""

from __future__ import annotations

import bz2
import gzip
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backports import zstd

from data_pipeline.build.build_corpus import build_corpus
from data_pipeline.document import Document, Rejected
from data_pipeline.sources import github
from recipes.llama1_corpus import llama1_corpus
from tests.support.archives import seven_zip, tar, zipped, zstd_with_dictionary
from tests.support.nasty_common_crawl import conversion, http, record

TEXT = "A heron stands in the shallow water, and waits until the tide brings fish."
CODE = "def heron(tide):\n    return tide + 1\n"
LICENSE = (Path(__file__).parents[3] / "LICENSE").read_bytes()
DUMP = (
    '<mediawiki xml:lang="en"><siteinfo/><page><title>Heron</title><ns>0</ns><id>1</id><revision>'
    f"<id>2</id><text>{TEXT}</text></revision></page></mediawiki>"
).encode()
POSTS = (
    '<posts><row Id="1" PostTypeId="1" Score="1" Title="Heron" '
    f'Body="{TEXT}" CreationDate="2020-01-01" /></posts>'
).encode()
PAPER = f"\\documentclass{{a}}\\begin{{document}}\\section{{A}}{TEXT}\\end{{document}}".encode()
BOOK = (f"Project Gutenberg's Heron\n*** START OF THE EBOOK ***\n{TEXT}\n" * 20).encode()
WET = conversion(TEXT)


def parquet(**row: Any) -> bytes:
    data = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([row]), data)
    return data.getvalue()


def json_gz(**row: Any) -> bytes:
    return gzip.compress(json.dumps(row).encode())


STACK = {
    "max_stars_repo_path": "tide/heron.py",
    "max_stars_repo_name": "a/b",
    "content": CODE,
}
CHECKOUT = {"b-1.0/LICENSE": LICENSE, "b-1.0/tide/heron.py": CODE.encode()}
META = {"path": "tide/heron.py", "repo_name": "a/b", "license": "mit"}

READ: Mapping[tuple[str, str], Callable[[], bytes]] = {
    ("wikipedia", "enwiki-20220701-pages-articles.xml.7z"): lambda: seven_zip({"e.xml": DUMP}),
    ("wikipedia", "enwiki-20220701-pages-articles.xml.zip"): lambda: zipped({"x/e.xml": DUMP}),
    ("wikipedia", "enwiki-20220701-pages-articles.XML.BZ2"): lambda: bz2.compress(DUMP),
    ("common_crawl", "a.warc.zst"): lambda: zstd_with_dictionary(WET, packed=False),
    ("common_crawl", "b.warc.wet.zst"): lambda: zstd_with_dictionary(WET, packed=True),
    ("common_crawl", "c.WARC.GZ"): lambda: gzip.compress(WET),
    ("common_crawl", "d.warc.gz"): lambda: gzip.compress(
        record(
            http(
                zstd.compress(f"<html><article><p>{TEXT}</p></article>".encode()),
                extra="Content-Encoding: zstd\r\n",
            )
        )
    ),
    ("c4", "en/c4-train.00000-of-01024.json.gz"): lambda: json_gz(text=TEXT),
    ("c4", "en/train-00000-of-01024.parquet"): lambda: parquet(text=TEXT, url="u"),
    ("c4", "redpajama.jsonl.gz"): lambda: json_gz(text=TEXT, meta={"url": "u"}),
    ("github", "the-stack/train-0.parquet"): lambda: parquet(
        **STACK, max_stars_repo_licenses=["MIT"]
    ),
    ("github", "the-stack-v2/train-0.parquet"): lambda: parquet(
        blob_id="1", content_id="2", path="/tide/heron.py", repo_name="a/b", content=CODE,
        detected_licenses=["MIT"], revision_id="9",
    ),
    ("github", "github-code/train-0.parquet"): lambda: parquet(
        code=CODE, repo_name="a/b", path="tide/heron.py", language="Python", license="mit"
    ),
    ("github", "codeparrot/file-000000000001.json.gz"): lambda: json_gz(
        repo_name="a/b", path="tide/heron.py", copies="1", content=CODE, license="mit"
    ),
    ("github", "redpajama/github_1.jsonl.gz"): lambda: json_gz(text=CODE, meta=META),
    ("github", "redpajama/github_2.parquet"): lambda: parquet(text=CODE, meta=json.dumps(META)),
    ("github", "b-1.0.tar.gz"): lambda: tar("gz", CHECKOUT),
    ("github", "b-1.0.tgz"): lambda: tar("gz", dict(reversed(CHECKOUT.items()))),
    ("github", "b-1.0.tar.xz"): lambda: tar("xz", CHECKOUT),
    ("github", "b-1.0.zip"): lambda: zipped(CHECKOUT),
    ("books", "1342.txt.utf-8"): lambda: BOOK,
    ("books", "pg1342.txt"): lambda: BOOK,
    ("books", "1342-0.zip"): lambda: zipped({"1342-0.txt": BOOK, "notes.png": b"\x89"}),
    ("arxiv", "2301.00001.tar.bz2"): lambda: tar("bz2", {"main.tex": PAPER}),
    ("arxiv", "2301.00001.zip"): lambda: zipped({"x/main.tex": PAPER, "fig.pdf": b"%PDF"}),
    ("arxiv", "2301.00001.gz"): lambda: tar("gz", {"main.tex.gz": gzip.compress(PAPER)}),
    ("stack_exchange", "math.stackexchange.com.7z"): lambda: seven_zip({"math/posts.xml": POSTS}),
    ("stack_exchange", "math.stackexchange.com.zip"): lambda: zipped(
        {"Posts.xml": POSTS, "Votes.xml": b"<votes/>"}
    ),
    ("stack_exchange", "math.stackexchange.com/posts.xml.gz"): lambda: gzip.compress(POSTS),
}  # fmt: skip

IGNORED = {
    ("wikipedia", "enwiki-20220701-cirrussearch-content.json.gz"): ("not_wikitext", "pages-art"),
    ("wikipedia", "20231101.en/train-00000-of-00041.parquet"): ("not_wikitext", "of their own"),
    ("wikipedia", "enwiki-NS0-20220701-ENTERPRISE-HTML.json.tar.gz"): ("not_wikitext", "download"),
    ("wikipedia", "enwiki-20220701-page.sql.gz"): ("sql_dump", "pages-articles"),
    ("wikipedia", "wikipedia_en_all.zim"): ("zim", "pages-articles"),
    ("wikipedia", "text/AA/wiki_00"): ("not_wikitext", "WikiExtractor"),
    ("wikipedia", "enwiki-20220701-pages-articles.xml.7z.001"): ("split_archive", "join"),
    ("common_crawl", "a.wacz"): ("packed_warc", "unpack"),
    ("common_crawl", "a.warc.gz.open"): ("unfinished_warc", "writing"),
    ("common_crawl", "page.html"): ("saved_page", "WARC"),
    ("c4", "c4.tar.gz"): ("archive", "unpack"),
    ("c4", "c4-train-00000-of-00100.arrow"): ("arrow", "parquet"),
    ("c4", "CC-MAIN-20190715175205-20190715200159-00000.warc.wet.gz"): ("a_crawl", "from-crawl"),
    ("books", "1342.html.images"): ("html_book", "plain text"),
    ("books", "pg1342.kindle.images"): ("e_book", "plain text"),
    ("books", "book.rtf"): ("word_processor", "plain text"),
    ("books", "books.rar"): ("rar", "unpack"),
    ("arxiv", "arXiv_src_manifest.xml"): ("not_a_package", "metadata"),
    ("arxiv", "2301.00005.txz"): ("repack", "tar.gz"),
    ("stack_exchange", "math.stackexchange.com.tar.gz"): ("repack", "7z"),
    ("stack_exchange", "Sites.xml"): ("site_list", "no posts"),
    ("common_crawl", "a.arc.gz"): ("arc", "convert"),
    ("common_crawl", "wet.paths.gz"): ("paths_list", "download"),
    ("common_crawl", "cdx-00000.gz"): ("crawl_index", "WARC"),
    ("common_crawl", "en_head.json.gz"): ("rows_not_a_crawl", "source of their own"),
    ("c4", "en.noclean/c4-train.00000-of-07168.json.gz"): ("unfiltered_c4", "--c4.from-crawl"),
    ("c4", "c4-train.tfrecord-00000-of-01024"): ("tfrecord", ".json.gz"),
    ("books", "pg1342.epub"): ("epub", "plain text"),
    ("books", "pg1342.epub3.images"): ("epub", "plain text"),
    ("books", "1342-h/1342-h.htm"): ("html_book", "plain text"),
    ("books", "1342-h.zip"): ("html_book", "plain text"),
    ("books", "pg1342.mobi"): ("e_book", "plain text"),
    ("books", "books3.tar.gz"): ("tar", "unpack"),
    ("arxiv", "2301.00001/main.tex"): ("unpacked_paper", "tar czf"),
    ("arxiv", "2301.00001.tar.xz"): ("repack", ".tar.gz"),
    ("arxiv", "arxiv-metadata-oai-snapshot.json"): ("not_a_package", "s3://arxiv/src"),
    ("arxiv", "arxiv_1.jsonl.gz"): ("not_a_package", "s3://arxiv/src"),
    ("stack_exchange", "stackoverflow.com-Posts.7z.001"): ("split_archive", "cat SITE.7z"),
    ("stack_exchange", "stackoverflow.com.z01"): ("split_archive", "cat SITE.7z"),
    ("stack_exchange", "stack_exchange.jsonl.zst"): ("not_a_dump", "SITE.7z"),
}

REJECTED: Mapping[tuple[str, str], tuple[Callable[[], bytes], str, str]] = {
    ("github", "v2-ids.parquet"): (
        lambda: parquet(blob_id="1", content_id="2", path="/a.py", repo_name="a/b"),
        "stack_v2_ids",
        "s3://softwareheritage",
    ),
    ("github", "starcoderdata.parquet"): (
        lambda: parquet(**STACK, id="1"),
        "no_license_field",
        "The Stack",
    ),
    ("github", "export/contents-0.json.gz"): (
        lambda: json_gz(id="1", size="5", content=CODE, binary=False, copies="1"),
        "contents_table",
        "export the join",
    ),
    ("github", "export/licenses-0.json.gz"): (
        lambda: json_gz(repo_name="a/b", license="mit"),
        "licenses_table",
        "export the join",
    ),
    ("github", "export/files-0.parquet"): (
        lambda: parquet(repo_name="a/b", ref="r", path="a.py", mode=1, id="1", symlink_target=""),
        "files_table",
        "export the join",
    ),
    ("github", "export/languages-0.json.gz"): (
        lambda: json_gz(repo_name="a/b", language=[]),
        "languages_table",
        "export the join",
    ),
    ("stack_exchange", "math.stackexchange.com.7z"): (
        lambda: seven_zip({"a/Posts.xml": POSTS, "b/Posts.xml": POSTS}),
        "damaged",
        "has 2 of table Posts.xml (a/Posts.xml, b/Posts.xml): unpack it",
    ),
    ("books", "1342-0.zip"): (lambda: zipped({"a.png": b"x"}), "damaged", "it has a.png"),
    ("books", "1342-8.zip"): (lambda: zipped({"a.txt": BOOK})[:-9], "damaged", "zip archive"),
    ("arxiv", "2301.00001.zip"): (lambda: b"PK\x03\x04" + b"x" * 99, "damaged", "zip archive"),
    ("github", "b.zip"): (lambda: b"PK\x03\x04" + b"x" * 99, "damaged", "zip"),
    ("github", "b.tar.gz"): (lambda: tar("gz", CHECKOUT)[:-400], "damaged", ""),
    ("common_crawl", "a.warc.zst"): (
        lambda: b"\x5d\x2a\x4d\x18\x09\0\0\0" + b"x" * 99,
        "damaged",
        "dictionary",
    ),
}


def items(root: Path, source: str, name: str, data: bytes) -> list[Document | Rejected]:
    path = root / source / name
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    chosen, folder = llama1_corpus(root).source(source)
    found = chosen.inputs(folder)
    assert [file.source_file for file in found.files] == [name], found.ignored
    return [item for file in found.files for item in chosen.read(file)]


@pytest.mark.parametrize(("source", "name"), READ)
def test_formats_that_are_read(tmp_path: Path, source: str, name: str) -> None:
    found = items(tmp_path, source, name, READ[source, name]())
    document = next(item for item in found if isinstance(item, Document))
    if source == "github":
        assert document.text == CODE
        assert (document.title or "").endswith("tide/heron.py")
        assert document.license in ("MIT", "Apache-2.0")
    else:
        assert TEXT in document.text
        assert all(isinstance(i, Document) or i.reason == "warcinfo_record" for i in found)


@pytest.mark.parametrize(("source", "name"), IGNORED)
def test_formats_that_are_not_read(tmp_path: Path, source: str, name: str) -> None:
    path = tmp_path / source / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    chosen, folder = llama1_corpus(tmp_path).source(source)
    (ignored,) = chosen.inputs(folder).ignored
    reason, words = IGNORED[source, name]
    assert ignored.reason == reason
    assert words in str(ignored.advice)


@pytest.mark.parametrize(("source", "name"), REJECTED)
def test_files_that_are_rejected_as_a_whole(tmp_path: Path, source: str, name: str) -> None:
    data, reason, words = REJECTED[source, name]
    last = items(tmp_path, source, name, data())[-1]
    assert isinstance(last, Rejected)
    assert last.reason == reason
    assert words in str(last.detail)


def test_a_folder_of_tables_keeps_the_rows_that_have_code(tmp_path: Path) -> None:
    """The table of licenses beside them is no license file, which would make them a checkout."""
    folder = tmp_path / "github" / "export"
    folder.mkdir(parents=True)
    row = {"repo_name": "a/b", "path": "heron.py", "content": CODE, "license": "mit"}
    (folder / "joined-0.json.gz").write_bytes(json_gz(**row))
    (folder / "licenses-0.json.gz").write_bytes(json_gz(repo_name="a/b", license="mit"))
    source, root = llama1_corpus(tmp_path).source("github")
    found = source.inputs(root)
    kinds = {"kinds": github.GITHUB_KINDS, "max_file_bytes": 99, "skip_folders": frozenset[str]()}
    read = [item for file in found.files for item in github.read(file, **kinds)]  # type: ignore[arg-type]
    assert [type(item) for item in read] == [Document, Rejected]
    assert not found.ignored


def test_a_folder_without_a_readable_file_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "raw" / "wikipedia").mkdir(parents=True)
    (tmp_path / "raw" / "wikipedia" / "all.zim").write_bytes(b"x")
    source, root = llama1_corpus(tmp_path / "raw").source("wikipedia")
    with pytest.raises(ValueError, match=r"1 zim ignored; zim: .* download XXwiki-DATE-pages"):
        build_corpus([(source, root)], tmp_path / "out")
