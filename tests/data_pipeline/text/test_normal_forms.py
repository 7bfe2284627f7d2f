"""Forms of a text for hashing and for scoring."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.text.normal_forms import normalize_for_scoring, paragraph_key


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  Hello, World! ", "hello world"),
        ("Page 12 of 345", "page 00 of 000"),
        ("\u0663 rivers, \uff13 towns", "0 rivers 0 towns"),
        # CCNet's paper takes accents and all punctuation away, its code neither in ASCII.
        ("Cafe\u0301 \u2014 na\u00efve", "cafe  naive"),
        ("\u00bfQu\u00e9? \u300c\u5ddd\u300d\u3002", "que \u5ddd"),
        ("tab\there\x07", "tabhere"),
        ("C++ & $5 <a>", "c++  $0 <a>"),
        ("\u0419\u043e\u0433\u0430", "\u0438\u043e\u0433\u0430"),
        ("\uac00\ub098", "\uac00\ub098"),
        ("...", ""),
        ("", ""),
    ],
)
def test_paragraph_key(text: str, expected: str) -> None:
    assert paragraph_key(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One\nTWO  3\t4\r\n", "one two 0 0"),
        ("\u201cQuote\u201d \u2014 it\u2019s \u2026", '"quote" - it\'s ...'),
        # Lines stay apart, and a full-width one is a digit: CCNet's code gets both wrong.
        ("end\nstart \uff11", "end start 0"),
        ("Caf\u00e9\u3002\uff08x\uff09", "cafe.(x)"),
        ("a\x07b\u0085c", "abc"),
        ("", ""),
    ],
)
def test_scoring_text(text: str, expected: str) -> None:
    assert normalize_for_scoring(text) == expected


@given(st.text(max_size=80))
def test_forms_are_settled_after_one_pass(text: str) -> None:
    scored = normalize_for_scoring(text)
    assert "\n" not in scored
    assert normalize_for_scoring(scored) == scored
    key = paragraph_key(text)
    assert paragraph_key(key) == key


@given(st.text(st.characters(max_codepoint=127), max_size=80))
def test_ascii_is_treated_as_all_other_text(text: str) -> None:
    """The fast way for ASCII gives what the general way gives, which one more letter asks for."""
    assert (
        paragraph_key(text + "x\u5ddd")
        == (paragraph_key("x" + text + "x")[1:-1] + "x\u5ddd").lstrip()
    )
    assert (
        normalize_for_scoring(text + " \u5ddd") == f"{normalize_for_scoring(text)} \u5ddd".strip()
    )
