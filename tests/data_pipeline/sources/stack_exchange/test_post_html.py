"""HTML of posts to text: one row per element."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.sources.stack_exchange.post_html import PostError, to_text
from data_pipeline.text.decoding import clean
from tests.support.nasty_stack_exchange import nasty_html


@pytest.mark.parametrize(
    ("markup", "expected"),
    [
        ("", ""),
        (" plain\ntext ", "plain\ntext"),
        ("<p>a  b\nc</p>\n<p>d</p>", "a b c\n\nd"),
        ("a<br>b<br/>c", "a\nb\nc"),
        ("a &lt;b&gt; &amp;amp; &nbsp;c", "a <b> &amp; c"),
        ("<b>a</b><i>b</i> <a href='u'>c</a><img src=x alt=y>", "ab c"),
        ("<p>a</p><ul><li>b</li><li>c</li></ul><p>d</p>", "a\n\n- b\n- c\n\nd"),
        ("<ol><li>a</li><li>b</li></ol>", "1. a\n2. b"),
        ("<ol start='3'><li>a</li></ol><ol start='x'><li>b</li></ol>", "3. a\n\n1. b"),
        ("<ul><li>a<ul><li>b</li></ul></li><li>c</li></ul>", "- a\n\n  - b\n\n- c"),
        ("<ul><li><p>a</p><p>b</p></li></ul>", "- a\n\n  b"),
        ("<blockquote><p>a</p><p>b</p></blockquote>c", "> a\n>\n> b\n\nc"),
        (
            "<p>x</p><pre class='l'><code>#include &lt;a.h&gt;\n  if  x:\n\n    y\n</code></pre>z",
            "x\n\n#include <a.h>\n  if  x:\n\n    y\n\nz",
        ),
        ("<ul><li>a<pre><code>b\n c</code></pre></li></ul>", "- a\n\n  b\n   c"),
        ("<pre>a<br>b</pre>", "a\nb"),
        ("use <code>a  b</code> here", "use a b here"),
        ("<h2>Head</h2>text<hr>more", "Head\n\ntext\n\nmore"),
        ("<table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td></td><td>2</td></tr></table>",
         "a | b\n1 | | 2"),
        ("10<sup>6</sup> m<sup>-2</sup> note<sup>[1]</sup>", "10^6 m^-2 note[1]"),
        ("a<!-- language: lang-js --><script>b()</script>c<style>d</style>", "ac"),
        ("<p>a<p>b", "a\n\nb"),
        ("a </b> b <i> c", "a b c"),
        ("a < b && c > d", "a < b && c > d"),
    ],
)  # fmt: skip
def test_elements(markup: str, expected: str) -> None:
    assert to_text(markup) == expected


def test_depth_is_bounded() -> None:
    assert to_text("<b>" * 1000 + "a") == "a"
    assert to_text("<blockquote>" * 1000 + "a").endswith("> a")
    for tag in ("<b>", "<ul><li>", "<blockquote>"):
        with pytest.raises(PostError):
            to_text(tag * 50_000 + "a")


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32))
def test_nothing_else_is_raised(seed: int) -> None:
    try:
        text = to_text(clean(nasty_html(random.Random(seed))))
    except PostError:
        return
    assert len(text) < 2_000_000


@given(st.lists(st.text("ab<&> ", min_size=1, max_size=20), max_size=5))
def test_escaped_text_is_text(paragraphs: list[str]) -> None:
    shown = [" ".join(text.split()) for text in paragraphs]
    escaped = [t.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") for t in shown]
    markup = "".join(f"<p>{text}</p>" for text in escaped)
    assert to_text(markup) == "\n\n".join(filter(None, shown))


def test_elements_of_thousands_of_attributes_are_refused() -> None:
    """libxml2 compares each with all before it."""
    with pytest.raises(PostError, match="2000 attributes") as caught:
        to_text("<p>a</p><p " + " ".join(f"a{i}" for i in range(2_000)) + ">b</p>")
    assert caught.value.reason == "many_attributes"
