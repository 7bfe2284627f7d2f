"""Attributes of HTML elements are counted as browsers see them, in linear time."""

from __future__ import annotations

import pytest

from data_pipeline.text.html_tags import MAX_ATTRIBUTES, many_attributes

N = MAX_ATTRIBUTES + 500
NAMES = " ".join(f"a{i}" for i in range(N))


@pytest.mark.parametrize(
    ("html", "number"),
    [
        (f"<p>text</p><p {NAMES}>", N),
        ("<p " + " ".join(f"a{i}='>'" for i in range(N)) + ">", N),
        ("<p/" + "/".join(f"a{i}" for i in range(N)) + ">", N),
        ("<p/" + "/".join(f"a{i}=x" for i in range(N)) + ">", None),
        ("<p " + "a=1 A=2 " * N + ">", None),
        ("<p " + "".join(f'a{i}="x"' for i in range(N)) + ">", N),
        # What looks quoted and is not: where no value begins.
        (f'<p a=x="{NAMES}">', N),
        (f'<p ="{NAMES}">', N),
        (f'<p =a=">" {NAMES}>', N + 1),
        (f"<p a' {NAMES}>", N + 1),
        ("<" + "p" * 200 + f" {NAMES}>", N + 1),
        # Long and harmless.
        (f"<p a=\"{NAMES}\" b='{NAMES}'>", None),
        (f"<p>{NAMES}</p>" * 3, None),
        ("<p a=1 b='2'>x</p>" * 2_000, None),
        (f"<p a={'x' * 10_000}>", None),
        (f'<p a="{NAMES}', None),
    ],
)
def test_attributes(html: str, number: int | None) -> None:
    assert many_attributes(html) == number
