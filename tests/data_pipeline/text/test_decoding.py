"""Bytes to text: encodings, what is no text, and cleaning."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.text.decoding import (
    MAX_MARKS,
    NotTextError,
    clean,
    decode,
    detect_encoding,
    strip_trailing_whitespace,
    unescaped,
)

FRENCH = "Un café déjà très sucré \u2013 «voilà» l\u2019élève"
RUSSIAN = "Все счастливые семьи похожи друг на друга"  # noqa: RUF001


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", ""),
        (b"plain", "plain"),
        (FRENCH.encode(), FRENCH),
        (b"\xef\xbb\xbf" + FRENCH.encode(), FRENCH),
        (FRENCH.encode("utf-16"), FRENCH),
        (b"\xfe\xff" + FRENCH.encode("utf-16-be"), FRENCH),
        (FRENCH.encode("utf-32"), FRENCH),
        (FRENCH.encode("cp1252"), FRENCH),
        ("Cervantes: «el año» señor".encode("latin-1"), "Cervantes: «el año» señor"),
        # 0x81 does not exist in Windows-1252.
        (b"some latin-1 with \x81 and \xe9", "some latin-1 with \x81 and é"),
        ("汉字".encode("utf-16") + b"\x00", "汉字\ufffd"),
    ],
)
def test_decode(data: bytes, text: str) -> None:
    assert decode(data) == text


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x7fELF\x02\x01\x01\x00\x00", "binary"),
        (b"text\0with NUL", "binary"),
        (b"\xff\x01\x02\x03\x04 almost \x05 text", "binary"),
        (RUSSIAN.encode("cp1251"), "unknown_encoding"),
        (RUSSIAN.encode("koi8-r"), "unknown_encoding"),
    ],
)
def test_no_text(data: bytes, reason: str) -> None:
    with pytest.raises(NotTextError) as caught:
        decode(data)
    assert caught.value.reason == reason


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252"])
def test_pieces_decide_as_the_whole(encoding: str) -> None:
    """A character may lie across two pieces, and the telling byte in the last of many."""
    data = (b"a" * 1000) + FRENCH.encode(encoding)
    for size in (1, 3, 7, 1000):
        pieces = [data[i : i + size] for i in range(0, len(data), size)]
        assert detect_encoding(pieces) == encoding


def test_utf8_cut_in_a_character_is_not_utf8() -> None:
    assert detect_encoding(["à la carte, déjà vu et cæter é".encode()[:-1]]) == "cp1252"


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("a\r\nb\rc\n", "a\nb\nc\n"),
        ("tab\tand \x00NUL\x07, \x1b[0m, \x7f, \x81", "tab\tand NUL, [0m, , "),
        ("page\x0cbreak, a\x0bb", "page\nbreak, a\nb"),
        ("caf\xe9\x0cbreak", "caf\xe9\nbreak"),
        ("e\u0301", "\u00e9"),
        ("e\x00\u0301", "\u00e9"),
        ("lone \ud800 surrogate", "lone  surrogate"),
        ("\ufeffmark", "mark"),
        ("  spaces  stay \n\n", "  spaces  stay \n\n"),
    ],
)
def test_clean(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        # Windows-1252 read as Latin-1.
        ("don\x92t", "don\u2019t"),
        ("\x93caf\xe9\x94 \x96 10 \x80\x85", "\u201ccaf\xe9\u201d \u2013 10 \u20ac\u2026"),
        ("caf\xe9\x92s, na\xefvet\xe9\x85", "caf\xe9\u2019s, na\xefvet\xe9\u2026"),
        ("\x8auma \x9eivot \x99", "\u0160uma \u017eivot \u2122"),
        # A capital before a closing quotation mark, which UTF-8 would read as one letter.
        ("\x93\xc9T\xc9\x94 \x93SPA\xdf\x94", "\u201c\xc9T\xc9\u201d \u201cSPA\xdf\u201d"),
        # Undefined in Windows-1252.
        ("a\x81\x8d\x8f\x90\x9db", "ab"),
        # UTF-8 read as Latin-1.
        ("don\xe2\x80\x99t \xe2\x82\xac5", "don\u2019t \u20ac5"),
        ("\xc3\x89t\xc3\x89 \xc2\x92", "\xc9t\xc9 \u2019"),
        ("\xf0\x9f\x99\x82", "\U0001f642"),
        ("\xe2\x80 \xe2\x92\xe2", "\xe2\u20ac \xe2\u2019\xe2"),
    ],
)
def test_c1_characters_are_decoded(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


@given(st.text(st.characters()))
def test_clean_properties(text: str) -> None:
    cleaned = clean(text)
    assert clean(cleaned) == cleaned
    assert unicodedata.is_normalized("NFC", cleaned)
    assert cleaned.encode("utf-8").decode("utf-8") == cleaned
    assert not any(unicodedata.category(c) == "Cc" and c not in "\n\t" for c in cleaned)


def test_without_line_end_space() -> None:
    assert strip_trailing_whitespace("\n  a \t\n\tb\n \nc  d \n\n") == "a\n\tb\n\nc  d"
    assert strip_trailing_whitespace(" " * 200_000 + "a") == "a"


def test_marks_without_end_are_cut_to_those_of_a_writing_system() -> None:
    """In the wrong order: sorting n of them takes n^2 steps."""
    text = clean("a" + "\u0301\u0316" * 50_000 + "b")
    assert text == unicodedata.normalize("NFC", "a" + "\u0301\u0316" * (MAX_MARKS // 2) + "b")
    assert clean(text) == text
    few = "e\u0301\u0316" * 40_000
    assert clean(few) == unicodedata.normalize("NFC", few)


@pytest.mark.parametrize(
    ("markup", "expected"),
    [
        ("a &amp; &#233;&#xe9; &lt;", "a & éé <"),
        ("&#" + "9" * 5_000 + ";.", "\ufffd."),
        ("&#x" + "f" * 5_000 + ";.", "\ufffd."),
    ],
)
def test_unescaped(markup: str, expected: str) -> None:
    assert unescaped(markup) == expected
