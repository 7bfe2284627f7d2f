"""Records cut out of XML bytes: the same for every chunking, damage costs one record."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.files.xml_records import Piece, RecordError, parse, parse_head, pieces, utf8


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


@given(
    st.lists(st.sampled_from([b"<a>", b"<a ", b"<a/>", b"<ab>", b"<", b"x", b"a", b"</a>"])),
    st.integers(1, 9),
)
def test_pieces_are_those_of_a_split(parts: list[bytes], size: int) -> None:
    data = b"".join(parts)
    found = list(pieces(cut(data, size), "a", 1000))
    assert [piece.data for piece in found] == re.split(rb"(?=<a[\s/>])", data)
    assert not any(piece.too_large for piece in found)


@pytest.mark.parametrize("size", [1, 7, 64, 5000])
def test_long_records_are_cut_and_named(size: int) -> None:
    data = b"head<r>" + b"x" * 4000 + b"<r>1</r><r>" + b"y" * 4000
    found = list(pieces(cut(data, size), "r", 100))
    assert [(p.data[:5], p.too_large) for p in found if len(p.data) < 200] == [
        (b"head", False),
        (b"<r>xx", True),
        (b"<r>1<", False),
        (b"<r>yy", True),
    ] or size == 5000  # records that come in one chunk are in memory anyway
    if size == 5000:
        assert [p.data[:5] for p in found] == [b"head", b"<r>xx", b"<r>1<", b"<r>yy"]


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("<a>é</a>".encode(), "<a>é</a>"),
        (b"\xef\xbb\xbf" + "<a>é</a>".encode(), "<a>é</a>"),
        ("<a>é</a>".encode("utf-16"), "<a>é</a>"),
        ("<a>é</a>".encode("utf-16-be"), "<a>é</a>"),
        (b'<?xml version="1.0" encoding="latin-1"?><a>\xe9</a>', "<a>é</a>"),
        (b'<?xml version="1.0" encoding="zip"?><a/>', "<a/>"),
        (b'<?xml version="1.0" encoding="no-such"?><a/>', "<a/>"),
        # What declares these in ASCII letters is not in them.
        *(
            (f'<?xml version="1.0" encoding="{name}"?><a>é</a>'.encode(), "<a>é</a>")
            for name in ("utf-16", "UTF-16LE", "utf-32", "ucs-4", "idna", "punycode", "utf-7")
        ),
        *(
            (f'<?xml version="1.0" encoding="{name}"?><a>é\\n</a>'.encode(), "<a>é\\n</a>")
            for name in ("unicode_escape", "raw-unicode-escape", "cp037", "undefined", "hex")
        ),
        ('<?xml version="1.0" encoding="euc-jp"?><a>仮</a>'.encode("euc-jp"), "<a>仮</a>"),
        ('<?xml version="1.0" encoding="KOI8-R"?><a>я</a>'.encode("koi8-r"), "<a>я</a>"),
        (b"", ""),
        (b"<a>\xff</a>", "<a>\udcff</a>"),
    ],
)
def test_encodings(data: bytes, expected: str, size: int) -> None:
    text = b"".join(utf8(cut(data, size))).decode("utf-8", "surrogateescape")
    assert text.removeprefix(text[: text.find("<a")]) == expected


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"<r>a</r>", "a"),
        (b"<r>a\xffb</r>", "a\ufffdb"),
        (b"<r>a\x00\x0bb</r>", "ab"),
        (b"<r>&lt;&#233;</r>", "<é"),
        (b"<r>a&#x1;&#11;&#xD83D;&#x110000;b&#233;&#xA;&#x1F600;</r>", "abé\n\U0001f600"),
    ],
)
def test_what_can_be_repaired_is(data: bytes, text: str) -> None:
    assert parse(data).text == text


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<r>",
        b"<r>a</s>",
        b"<r>&nbsp;</r>",
        b"<r>a & b</r>",
        b'<r a="<"/>',
        b"<r>" * 100_000,
    ],
)
def test_damage_is_an_error(data: bytes) -> None:
    with pytest.raises(RecordError):
        parse(data)


def test_entities_are_not_expanded() -> None:
    bomb = '<!DOCTYPE r [<!ENTITY a "lol">' + "".join(
        f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(9)
    )
    root = parse_head(f"{bomb}]><r>&j;</r>".encode())
    assert root is None or len("".join(map(str, root.itertext()))) < 100
    assert parse_head(b"no xml") is None


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=300), st.integers(1, 50))
def test_nothing_else_is_raised(data: bytes, size: int) -> None:
    for piece in pieces(utf8(cut(b"<r" + data, size)), "r", 100):
        assert isinstance(piece, Piece)
        try:
            parse(piece.data)
        except RecordError:
            continue
