"""Functions of the readers take linear time on texts that ask for more."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import PurePosixPath

import pytest

from data_pipeline.document import Document
from data_pipeline.files.tar_stream import DamagedTarError, _pax_records
from data_pipeline.filters.web_rules import gopher_repetition
from data_pipeline.sources.arxiv.project import main_file
from data_pipeline.sources.books import gutenberg
from data_pipeline.sources.github.checkouts import nearest_license
from data_pipeline.sources.github.notices import remove_notices
from data_pipeline.sources.stack_exchange.post_html import to_text as post_text
from data_pipeline.sources.wikipedia.wikitext import to_text as wikitext_text
from data_pipeline.text.decoding import clean
from data_pipeline.text.licenses import from_name
from data_pipeline.text.masking import without_emails, without_ip_addresses

N = 6_000
"""Characters of the shorter text; of the longer one ten times as many, for which a quadratic
function takes seconds to minutes."""


def pax(text: str) -> None:
    with pytest.raises(DamagedTarError):
        _pax_records(text.encode() + b"x")


def readme(text: str) -> None:
    main_file({"00README.XXX": text, "a.tex": "x"}, max_characters=10**9)


def named_style(text: str) -> None:
    files = {"a.tex": text, "b.tex": "x", "s.sty": "\\def\\@x{}" * (len(text) // 8)}
    main_file(files, max_characters=10**9)


def book(text: str) -> None:
    gutenberg.header(text)
    gutenberg.book(text)


def repetition(text: str) -> None:
    gopher_repetition(Document(text, "file"))


def notices(text: str) -> None:
    remove_notices(text, "a.py")


def long_name(text: str) -> None:
    assert nearest_license(text, {PurePosixPath("a"): "mit"}) == "mit"


CASES: dict[str, tuple[Callable[[str], object], str, str]] = {
    "pax records": (pax, "", "5 a=\n"),
    "readme spaces": (readme, "filename:a", " "),
    "readme names": (readme, "", "filename:"),
    "styles": (named_style, "", "\\usepackage{s}"),
    "licenses": (from_name, "", "apache "),
    "old licenses": (from_name, "", "apache 1.0 "),
    "book head": (book, "Project Gutenberg EBook", "\n"),
    "book title": (book, "Project Gutenberg EBook of", " "),
    "book notes": (book, "", "Transcriber's note\nx\n"),
    "notices": (notices, "", "# copyright 2020\n\n"),
    "modes": (notices, "#", "-*-"),
    "marks": (clean, "a", "\u0301\u0316"),
    "cells": (post_text, "<table><tr>", "<td>a"),
    "blank cells": (post_text, "<table><tr>", "<td> "),
    "code lines": (post_text, "<pre>", "a<br>"),
    "e-mails": (without_emails, "@", "a."),
    "e-mail hosts": (without_emails, "a@", "a."),
    "addresses": (without_ip_addresses, "2000:", "1:1."),
    "repeated words": (repetition, "", "a b "),
    "prefixes": (wikitext_text, "[[", ":w"),
    "hidden templates": (wikitext_text, "", "{{x}}"),
    "closed and opened": (wikitext_text, "", "}}{{"),
    "folders of a name": (long_name, "", "a/"),
    "conversion": (wikitext_text, "{{convert", "|1"),
}


def seconds(function: Callable[[str], object], text: str) -> float:
    start = time.process_time()
    function(text)
    return time.process_time() - start


@pytest.mark.parametrize("name", CASES)
def test_time_is_linear(name: str) -> None:
    function, lead, piece = CASES[name]
    short, long = (lead + piece * (size // len(piece)) + "x" for size in (N, 10 * N))
    once = min(seconds(function, short) for _ in range(2))
    assert seconds(function, long) <= 30 * once + 0.3
