"""C4's rules: one row per rule and side of its threshold."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.document import Document, Rejected
from data_pipeline.filters import c4 as c4_rules

keep = partial(c4_rules.keep_good_lines, min_words=5, max_word_characters=1000)
GOOD = "This line has five words."


def kept(text: str) -> str:
    result = keep(Document(text, "file", 3))
    if isinstance(result, Rejected):
        assert result.offset == 3
        return result.reason
    return result.text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD, GOOD),
        (f"Menu\n  {GOOD} \nHome | About", GOOD),
        ("Does this line have five?", "Does this line have five?"),
        ("What a line of five!", "What a line of five!"),
        ('He said "five words it is"', 'He said "five words it is"'),
        ("This line has no mark", "no_good_line"),
        ("Read all of this line...", "no_good_line"),
        ("Four words are few.", "no_good_line"),
        (f"This line has a word {'x' * 1001}.", "no_good_line"),
        (f"This line has a word {'x' * 999}.", f"This line has a word {'x' * 999}."),
        ("Please turn on JavaScript in your browser.", "no_good_line"),
        ("This site uses cookies to make it better.", "no_good_line"),
        ("You accept our Privacy Policy and all the rest.", "no_good_line"),
        ("By this you accept the Terms of Use.", "no_good_line"),
        ("The river is long.[1] It is also deep.[23]", "The river is long. It is also deep."),
        ("The river is long.[citation needed] Very.", "The river is long. Very."),
        ("History of the long river.[edit]", "History of the long river."),
        ("An array is a[i] or a[12345] in this.", "An array is a[i] or a[12345] in this."),
        ("", "no_good_line"),
        (f"{GOOD}\n\n\n{GOOD}", f"{GOOD}\n{GOOD}"),
    ],
)
def test_lines(text: str, expected: str) -> None:
    assert kept(text) == expected


@given(st.text(st.sampled_from('ab .!?"\n[1]{'), max_size=200))
def test_lines_are_settled_after_one_pass(text: str) -> None:
    once = kept(text)
    # A citation mark within a citation mark shows only when the inner one is gone.
    assert once == "no_good_line" or kept(once) == once or "[" in text


@pytest.mark.parametrize(
    ("rule", "text", "reason"),
    [
        (c4_rules.placeholder_text, "So Lorem  ipsum? LOREM IPSUM!", "placeholder_text"),
        (c4_rules.placeholder_text, "lorem", None),
        (c4_rules.curly_bracket, "if (x) { y }", "curly_bracket"),
        (c4_rules.curly_bracket, "(x) [y]", None),
        (partial(c4_rules.few_sentences, min_sentences=3), "One. Two! Three?", None),
        (partial(c4_rules.few_sentences, min_sentences=3), "One.\nTwo.\nThree.", None),
        (partial(c4_rules.few_sentences, min_sentences=3), 'He said "One." (Two.) Three.', None),
        (partial(c4_rules.few_sentences, min_sentences=3), "One. Two. Three", "few_sentences"),
        (partial(c4_rules.few_sentences, min_sentences=3), "One... two?! Three", "few_sentences"),
        (partial(c4_rules.few_sentences, min_sentences=3), "Version 1.2.3.4.5", "few_sentences"),
        (partial(c4_rules.few_words, min_words=5), " one two\nthree  four five ", None),
        (partial(c4_rules.few_words, min_words=5), " one two\nthree  four ", "few_words"),
        (c4_rules.no_end_mark, "A line\nAnother.\n", None),
        (c4_rules.no_end_mark, 'Here "it is" \n', None),
        (c4_rules.no_end_mark, "A line\nv1.2 menu", "no_end_mark"),
    ],
)
def test_rules(rule: Callable[[Document], str | None], text: str, reason: str | None) -> None:
    assert rule(Document(text, "file")) == reason


def test_bad_words(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("# a comment\nrude\nvery rude word\nc++\n\n")
    words = c4_rules.bad_words_list(path)
    found = {
        text: c4_rules.bad_word(Document(text, "file"), words=words)
        for text in ("How RUDE!", "a very rude word", "crude", "rudely", "C++ it is", "# a comment")
    }
    assert [text for text, reason in found.items() if reason == "bad_word"] == [
        "How RUDE!",
        "a very rude word",
        "C++ it is",
    ]
    assert c4_rules.any_of([]).search("anything") is None
    with pytest.raises(ValueError, match=r"none\.txt is missing; it should be a list of words"):
        c4_rules.bad_words_list(tmp_path / "none.txt")
