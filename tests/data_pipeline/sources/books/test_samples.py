"""Real books of Project Gutenberg: nothing of its header, license and notes stays, no word of the
book goes."""

from __future__ import annotations

import re
from pathlib import Path

from data_pipeline.document import Document
from data_pipeline.sources import books
from recipes.llama1_corpus import books_source

SOURCE = books_source()

TELLING = (
    *("gutenberg", "small print", "pgdp", "proofread", "transcriber's note", "internet archive"),
    *("electronic edition", "html version", "www."),
)
"""Words of Project Gutenberg's header, footer, license and credits that no old book has."""

ENDS = {
    "gutenberg-search/1080.txt": ("A MODEST PROPOSAL", "past\nchild-bearing."),
    "gutenberg-search/42.txt": ("STRANGE CASE OF", "Henry Jekyll to an end."),
    "gutenberg-search/61.txt": ("MANIFESTO OF THE", "COUNTRIES, UNITE!"),
    "gutenberg-search/844.txt": ("The Importance of Being", "TABLEAU"),
    "gutenberg-search/2701-0.txt": ("MOBY DICK;", "another\norphan."),
    "huckleberry-finn-editions/hfinn10.txt": ("THE ADVENTURES OF", "THE END"),
    "huckleberry-finn-editions/hfinn12.txt": ("NOTICE", "I been there before."),
    "sentencepiece/botchan.txt": ("BOTCHAN (MASTER DARLING)", "[R: Rad]"),
    "wss22/pg25344.txt": ("THE SCARLET LETTER.", "Welch, Bigelow, & Co."),
    "wss22/pg37106.txt": ("[Illustration: LITTLE", "254 Washington St., Boston, Mass."),
    "wss22/pg84.txt": ("Frankenstein;", "darkness and distance."),
    "wss22/pg1342.txt": ("[Illustration:", "CHANCERY LANE, LONDON."),
}
"""First and last words of books, read in the files by eye."""


def test_no_word_of_project_gutenberg_is_left_and_no_word_of_the_book_is_lost(
    samples: Path,
) -> None:
    checked = 0
    files = SOURCE.inputs(samples / "raw" / "books").files
    for item in (item for file in files for item in SOURCE.read(file)):
        assert isinstance(item, Document)
        edited = books.without_gutenberg(item, keep_copyrighted=True)
        assert isinstance(edited, Document)
        lower = edited.text.lower()
        assert not [word for word in TELLING if word in lower], item.source_file
        assert not re.search(r"(?<![-\w])e-?(?:book|text)s?\b", lower), item.source_file
        assert "produced by" not in lower[:1_000], item.source_file
        # Header and license have 19,000 to 21,000 characters, the small print of hfinn10 10,000,
        # the transcriber's notes of Little Women another 12,000.
        assert 9_000 < len(item.text) - len(edited.text) < 33_000, item.source_file
        assert edited.url is not None
        assert edited.title is not None
        first, last = ENDS.get(item.source_file, ("", ""))
        checked += bool(first)
        assert edited.text.lstrip().startswith(first), item.source_file
        assert edited.text.rstrip().endswith(last), item.source_file
        again = books.without_gutenberg(edited, keep_copyrighted=True)
        assert again == edited
    assert checked == len(ENDS)
