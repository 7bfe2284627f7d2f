"""Hashes of paragraphs: what the plain definition gives, for all of Unicode."""

from __future__ import annotations

import random
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_pipeline.dedup.paragraph_hashes import NO_KEY, line_hashes, write_paragraph_hashes
from data_pipeline.text.normal_forms import paragraph_key


def defined(line: str) -> int:
    """The definition, for one paragraph."""
    return xxhash.xxh3_64_intdigest(paragraph_key(line).encode("utf-8", "surrogatepass"))


ALL = st.characters(exclude_characters="\n")  # surrogates included
# Accents, jamo, vowel signs that compose, capital sigmas, letters that become several.
DIFFICULT = st.sampled_from(
    "\u0130\u03a3\u03c3\u0301\u0323\u0345\u1100\u1161\u11a8\uac00\u09c7\u09be\u0b47\u0b56"
    "\u0958\u0344\u1e9e\ufb01\U0002f81a\U0001d15e\U0001d165\U0001d16d\u3099\u302e\u0660\uff11"
    " .'A\u3000"
)


@pytest.mark.slow
@settings(deadline=None)  # the first text waits for the table
@given(st.lists(st.text(ALL | DIFFICULT, max_size=12), max_size=8))
@example(["\u039f\u0394\u039f\u03a3", "\u03a3\u0391\u03a3", "\u0391\u03a3.", "\u0391\u03a3'\u0391"])
@example(["\u1100", "\u1161", "\u1100\u1161", "\u1100.\u1161"])
@example(["", " ", "...", "\u3002", "\u00a0x\u00a0", "\r", "x\r", "\x85", "\u2028", "\x1e"])
def test_hashes_are_the_definition_s(lines: list[str]) -> None:
    assert line_hashes(lines).tolist() == [defined(line) for line in lines]


@pytest.mark.slow
def test_every_character_by_itself() -> None:
    lines = [chr(code) for code in range(sys.maxunicode + 1) if chr(code) != "\n"]
    expected = np.fromiter(map(defined, lines), np.uint64, len(lines))
    wrong = np.flatnonzero(line_hashes(lines) != expected)
    assert [ascii(lines[index]) for index in wrong] == []


def test_characters_that_compose_beside_one_another() -> None:
    """Random texts of the few thousand characters that normalisation touches at all."""
    touched = [
        chr(code)
        for code in range(sys.maxunicode + 1)
        if unicodedata.combining(chr(code)) or unicodedata.decomposition(chr(code))
    ]
    # Korean syllables have no entry of their own in the table of decompositions.
    touched += map(chr, (*range(0x1100, 0x1200), *range(0xAC00, 0xAC40)))
    drawn = random.Random(0)
    lines = ["".join(drawn.choices(touched, k=drawn.randrange(2, 7))) for _ in range(40_000)]
    expected = [defined(line) for line in lines]
    assert line_hashes(lines).tolist() == expected


def test_accents_case_digits_and_punctuation_do_not_count() -> None:
    same = ["Caf\u00e9 no. 12!", "cafe\u0301 no 99", "  CAFE NO \u0663\u0664 \u2014"]
    assert len(set(line_hashes(same).tolist())) == 1
    assert len(set(line_hashes(["cafe", "caf", "", "cafe x"]).tolist())) == 4
    assert (line_hashes(["", "...", " \t\u3000", "\u300c\u300d"]) == NO_KEY).all()


@pytest.mark.parametrize("batch", [1, 7, 1 << 20])
def test_files_hold_hashes_in_order_and_counts(tmp_path: Path, batch: int) -> None:
    """Whatever is done at a time: many texts, one, or a part of one."""
    texts = ["one\ntwo\n\nthr\u00e9e", "", "\n", "x" * 30 + "\r\ny", "four"]
    written = write_paragraph_hashes(iter(texts), tmp_path, batch_characters=batch)
    assert written == 4 + 1 + 2 + 2 + 1
    hashes, counts = (np.load(tmp_path / f"{name}.npy") for name in ("hashes", "counts"))
    assert counts.tolist() == [4, 1, 2, 2, 1]
    assert hashes.dtype == np.uint64
    assert hashes.tolist() == [defined(line) for text in texts for line in text.split("\n")]


def test_no_texts(tmp_path: Path) -> None:
    assert write_paragraph_hashes([], tmp_path) == 0
    assert len(np.load(tmp_path / "hashes.npy")) == len(np.load(tmp_path / "counts.npy")) == 0
