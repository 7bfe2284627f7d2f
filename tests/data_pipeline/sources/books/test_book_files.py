"""Books: headers of every style, what is kept of them, and several books in one file."""

import gzip
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.document import Document, Rejected
from data_pipeline.sources import books
from data_pipeline.sources.books import gutenberg
from recipes.llama1_corpus import books_source
from tests.support.nasty_books import nasty_book, nasty_books

SOURCE = books_source()

STORY = """\
THE HOUSE

by N. O. Body


CHAPTER I

It was a dark night, and the bread was produced by hand.

The End of the project was near.


CHAPTER II

"This file was lost," she said. "By whom was it made?"

THE END"""

LICENCE = (
    "Updated editions will replace the previous one. Project Gutenberg-tm is a trademark.\n" * 300
)

STYLE_2000S = f"""\
The Project Gutenberg EBook of The House, by N. O. Body

This eBook is for the use of anyone anywhere at no cost and with
almost no restrictions whatsoever.  You may copy it under the terms
of the Project Gutenberg License included with this eBook.

Title: The House
       A Tale

Author: N. O. Body

Posting Date: August 26, 2008 [EBook #4321]
Release Date: October, 1997

Language: English

Character set encoding: ASCII

*** START OF THIS PROJECT GUTENBERG EBOOK THE HOUSE ***




Produced by Somebody and the Online
Distributed Proofreading Team at http://www.pgdp.net





{STORY}





End of the Project Gutenberg EBook of The House,
by N. O. Body

*** END OF THIS PROJECT GUTENBERG EBOOK THE HOUSE ***

***** This file should be named 4321.txt or 4321.zip *****
Produced by Somebody
{LICENCE}"""

STYLE_2020S = f"""\
The Project Gutenberg eBook of The House, by N. O. Body

This eBook is for the use of anyone anywhere in the United States and
most other parts of the world at no cost.

Title: The House

Author: N. O. Body

Release Date: May 3, 2022 [eBook #67000]

Language: French

Produced by: Somebody (Images generously made available by a library.)

*** START OF THE PROJECT GUTENBERG EBOOK THE HOUSE ***


{STORY}

*** END OF THE PROJECT GUTENBERG EBOOK THE HOUSE ***

{LICENCE}"""

STYLE_1990S = f"""\
**Welcome To The World of Free Plain Vanilla Electronic Texts**

August, 1993 [Etext #76]

The Project Gutenberg Etext of The House, by N. O. Body
*****This file should be named house10.txt or house10.zip*****

***START**THE SMALL PRINT!**FOR PUBLIC DOMAIN ETEXTS**START***
Why is this "Small Print!" statement here?
{LICENCE[:9_000]}
*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*


Scanned by Somebody, nobody@example.org


{STORY}

End of The Project Gutenberg Etext of The House, by N. O. Body
"""

STYLE_2002 = f"""\
The Project Gutenberg EBook of The House, by N. O. Body

Copyright laws are changing all over the world.

Title: The House
Author: N. O. Body
Release Date: 2002 [EBook #77]

*** START OF THE PROJECT GUTENBERG EBOOK THE HOUSE ***


This eBook was Produced by Somebody, [nobody@example.org]
Edition 11 was produced by Somebody Else


{STORY}


*** END OF THE PROJECT GUTENBERG EBOOK THE HOUSE ***

This file should be named house11.txt or house11.zip

These are confirmed as Public Domain in the US unless a copyright notice is included.

**The Legal Small Print**
***START**THE SMALL PRINT!**FOR PUBLIC DOMAIN EBOOKS**START***
{LICENCE[:3_000]}
*END THE SMALL PRINT! FOR PUBLIC DOMAIN EBOOKS*Ver.02/11/02*END*
"""


STYLE_UNMARKED = (
    STYLE_2000S.replace("*** START OF THIS PROJECT GUTENBERG EBOOK THE HOUSE ***", "")
    .partition("*** END")[0]
    .rstrip()
)

STYLE_FRENCH = STYLE_2000S.replace("End of the Project", "Fin du Projet").replace(
    "Produced by Somebody and", "Produit par Quelqu'un pour Project Gutenberg et"
)

STYLE_AUSTRALIAN = f"""\
Title:      The House
Author:     N. O. Body
* A Project Gutenberg of Australia eBook *
eBook No.:  0100021.txt
Language:   English
Date first posted: August 2001

This eBook was produced by: Somebody

Project Gutenberg of Australia eBooks are created from printed editions
which are in the public domain in Australia, unless a copyright notice
is included.

Copyright laws are changing all over the world. Be sure to check the
copyright laws for your country.

This eBook is made available at no cost under the terms
of the Project Gutenberg of Australia License.


Title:      The House
Author:     N. O. Body



{STORY}


This site is full of FREE ebooks - Project Gutenberg Australia
"""


@pytest.mark.parametrize(
    "text",
    [
        *(STYLE_2000S, STYLE_2020S, STYLE_1990S, STYLE_2002, STYLE_UNMARKED, STYLE_FRENCH),
        STYLE_AUSTRALIAN,
    ],
)
def test_every_style_leaves_the_book_and_nothing_else(text: str) -> None:
    assert gutenberg.is_gutenberg(text)
    assert gutenberg.book(text) == STORY + "\n"


@pytest.mark.parametrize(
    ("text", "header"),
    [
        (STYLE_2000S, (4321, "The House A Tale", "N. O. Body", "en", "1997-10")),
        (STYLE_2020S, (67000, "The House", "N. O. Body", "fr", "2022-05-03")),
        (STYLE_1990S, (76, "The House", None, None, "1993-08")),
        (STYLE_2002, (77, "The House", "N. O. Body", None, "2002")),
    ],
)
def test_what_the_header_says(text: str, header: tuple[object, ...]) -> None:
    found = gutenberg.header(text)
    assert (found.number, found.title, found.author, found.language, found.released) == header
    assert found.licence == gutenberg.PUBLIC_DOMAIN


def test_australian_books_are_not_said_to_be_free_in_the_usa() -> None:
    assert gutenberg.header(STYLE_AUSTRALIAN) == gutenberg.Header(
        None, "The House", "N. O. Body", "en", "2001-08", None
    )


def in_2000s(story: str) -> str:
    return STYLE_2000S.replace(STORY, story)


@pytest.mark.parametrize(
    ("story", "left"),
    [
        # Notes in brackets go wherever they are.
        ("A.\n\n[Transcriber's Note: spelling kept.]\n\nB.", "A.\n\n\n\nB."),
        # A heading's note goes up to the next section.
        (
            "A.\n\n\nTranscriber\u2019s Notes:\n\nSpelling kept.\n\nAll of it.\n\n\n\nB.",
            "A.\n\n\nB.",
        ),
        # At the end, it goes up to the end.
        ("A.\n" * 400 + "\n\n\nTRANSCRIBER'S NOTES\n\nOne.\n\n\nTwo.", "A.\n" * 399 + "A."),
        ("The transcriber notes that it rains.", "The transcriber notes that it rains."),
        ("Notes of a transcriber\n\nB.", "Notes of a transcriber\n\nB."),
        # Credits stand before the book only.
        (
            "A.\n\nB.\n\nTranscribed by hand from memory.",
            "A.\n\nB.\n\nTranscribed by hand from memory.",
        ),
        ("[Illustration]\n\nA.", "[Illustration]\n\nA."),
        ("[Editor's Note: see Project Gutenberg ebook #43.]\n\nA.", "A."),
        # Without blank lines, only the line itself is known to be a credit.
        ("A.\n" * 30, "A.\n" * 29 + "A."),
        ("\n   Indented title\n\nA.", "   Indented title\n\nA."),
    ],
)
def test_credits_and_notes(story: str, left: str) -> None:
    assert gutenberg.book(in_2000s(story)) == left + "\n"


def test_no_blank_lines_at_all() -> None:
    text = "\n".join(line for line in in_2000s("A.\n" * 30).split("\n") if line.strip())
    text = text.replace("\nDistributed Proofreading Team at http://www.pgdp.net", "")
    assert gutenberg.book(text) == "A.\n" * 30


@pytest.mark.parametrize(
    "text",
    [
        STORY,
        f"On Project Gutenberg\n\nProject Gutenberg is a library.\n\n{STORY}",
        "The printer Gutenberg produced books.",
        "",
    ],
)
def test_other_texts_are_left_alone(text: str) -> None:
    assert not gutenberg.is_gutenberg(text)
    document = Document(text, "a.txt", licence="CC0-1.0")
    assert books.without_gutenberg(document, keep_copyrighted=False) == document


def test_fields_of_the_document() -> None:
    (edit,) = SOURCE.edits
    assert edit(Document(STYLE_2000S, "4321.txt")) == Document(
        STORY + "\n",
        "4321.txt",
        url="https://www.gutenberg.org/ebooks/4321",
        title="The House A Tale by N. O. Body",
        language="en",
        licence="public domain in the USA",
        timestamp="1997-10",
    )


def test_books_under_copyright() -> None:
    text = STYLE_2000S.replace(
        "Title:", "** This is a COPYRIGHTED Project Gutenberg eBook, Details Below **\n\nTitle:"
    )
    document = Document(text, "a.txt")
    (edit,) = SOURCE.edits
    assert edit(document) == document.rejected("copyrighted", "The House A Tale")
    kept = books.without_gutenberg(document, keep_copyrighted=True)
    assert isinstance(kept, Document)
    assert kept.licence is None


def read_all(root: Path) -> list[Document | Rejected]:
    return [item for file in SOURCE.inputs(root).files for item in SOURCE.read(file)]


@pytest.mark.parametrize(
    ("encoding", "declared"),
    [
        ("utf-8", "ASCII"),
        ("utf-8-sig", "UTF-8"),
        ("latin-1", "ISO-8859-1"),
        ("cp1252", "no-such-encoding"),
        ("iso8859-2", "ISO-8859-2"),
        ("koi8-r", "KOI8-R"),
        ("utf-16", "UTF-16"),
    ],
)
def test_encodings(tmp_path: Path, encoding: str, declared: str) -> None:
    letters = {"iso8859-2": "žluť", "koi8-r": "дом в лесу " * 500}.get(encoding, "déjà")
    text = STYLE_2000S.replace("ASCII", declared).replace("dark", letters)
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    (item,) = read_all(tmp_path)
    assert isinstance(item, Document)
    assert letters in item.text


def test_a_wrong_declaration_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(
        STYLE_2000S.replace("dark", "d\u00e9j\u00e0").encode("latin-1")
    )
    (item,) = read_all(tmp_path)
    assert isinstance(item, Document)
    assert "déjà" in item.text


def test_several_books_in_a_file(tmp_path: Path) -> None:
    long_book = "word " * 2_000
    (tmp_path / "lines.txt").write_text(f"one {long_book}\n\ntwo {long_book}\n")
    (tmp_path / "paragraphs.txt").write_text(("word " * 300 + "\n") * 20)
    with gzip.open(tmp_path / "rows.jsonl.gz", "wt") as stream:
        stream.write(json.dumps({"text": "three\r\n", "title": "3", "license": "MIT", "url": 7}))
    pq.write_table(pa.table({"text": ["four", None]}), tmp_path / "table.parquet")
    found = [
        (item.source_file, item.offset, item.text.split()[0])
        if isinstance(item, Document)
        else (item.source_file, item.offset, item.reason)
        for item in read_all(tmp_path)
    ]
    assert found == [
        ("lines.txt", 1, "one"),
        ("lines.txt", 3, "two"),
        ("paragraphs.txt", None, "word"),
        ("rows.jsonl.gz", 1, "three"),
        ("table.parquet", 0, "four"),
        ("table.parquet", 1, "text_not_string"),
    ]
    (row,) = (item for item in read_all(tmp_path) if item.source_file == "rows.jsonl.gz")
    assert isinstance(row, Document)
    assert (row.text, row.title, row.licence, row.url) == ("three\n", "3", "MIT", None)


@pytest.mark.parametrize(
    ("name", "content", "reasons"),
    [
        ("a.txt", b"a" * 101, ["too_large"]),
        ("a.txt", b"a\0b", ["binary"]),
        ("a.txt", b"\xe4" * 50, ["unknown_encoding"]),
        ("a.txt.gz", gzip.compress(b"a" * 90)[:15], ["damaged"]),
        (
            "a.txt",
            b"a" * 40 + b"\n" + b"b" * 120 + b"\n" + b"c" * 40,
            ["kept", "too_large", "kept"],
        ),
        ("a.jsonl", b'{"text": 1}\n{}\n[]', ["text_not_string", "no_text_field", "bad_json"]),
        ("a.parquet", b"PAR1", ["damaged"]),
        ("a.jsonl", b"", ["empty"]),
    ],
)
def test_what_is_no_book_is_counted(
    tmp_path: Path, name: str, content: bytes, reasons: list[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    (file,) = books.inputs(tmp_path).files
    items = books.read(file, text_field="text", max_book_bytes=100, book_line_characters=30)
    found = [item.reason if isinstance(item, Rejected) else "kept" for item in items]
    assert found == reasons


def test_missing_and_ignored_files(tmp_path: Path) -> None:
    (tmp_path / "a.epub").write_bytes(b"")
    (tmp_path / "b.txt").write_text("b")
    found = SOURCE.inputs(tmp_path)
    assert [(item.source_file, item.reason) for item in found.ignored] == [
        ("a.epub", "unknown_kind")
    ]
    (tmp_path / "b.txt").unlink()
    (item,) = SOURCE.read(found.files[0])
    assert isinstance(item, Rejected)
    assert item.reason == "unreadable"


@settings(max_examples=100, deadline=None)
@given(st.randoms(use_true_random=False))
def test_any_order_of_markers_is_survived(rng: random.Random) -> None:
    document = Document(nasty_book(rng).replace("\0", ""), "a.txt")
    edited = books.without_gutenberg(document, keep_copyrighted=True)
    assert isinstance(edited, Document)
    again = books.without_gutenberg(edited, keep_copyrighted=True)
    assert isinstance(again, Document)
    assert again.text == edited.text
    lines = document.text.split("\n")
    assert all(any(line.rstrip() in other for other in lines) for line in edited.text.split("\n"))


@pytest.mark.parametrize("seed", range(4))
def test_nasty_files_are_accounted_for(tmp_path: Path, seed: int) -> None:
    (edit,) = SOURCE.edits
    for name, content in nasty_books(random.Random(seed)):
        (tmp_path / name).write_bytes(content)
    found = SOURCE.inputs(tmp_path)
    assert [item.source_file for item in found.ignored] == ["book.epub"]
    for file in found.files:
        items = list(SOURCE.read(file))
        assert items, f"{file.source_file} is neither read nor rejected"
        for item in items:
            if isinstance(item, Document) and isinstance(edited := edit(item), Document):
                json.dumps(edited.row("books"), ensure_ascii=False).encode()


@pytest.mark.parametrize("piece", ["\n", " ", "*", " \n", "[Transcriber's Note", "Title: a\n  "])
def test_long_repetitions_take_no_long_time(piece: str) -> None:
    text = "*** START OF THE PROJECT GUTENBERG EBOOK A ***\n" + piece * 100_000
    assert len(gutenberg.book(text)) <= len(text)
    gutenberg.header(piece * 100_000)
    assert not gutenberg.is_gutenberg(piece * 100_000)


# --- Real books -----------------------------------------------------------------------------------
