"""N-gram models: probabilities by hand, sums, ARPA there and back, and KenLM as the reference."""

import gzip
import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.filters.ngram import NGramModel, read_arpa, write_arpa
from data_pipeline.filters.ngram_training import train_model
from data_pipeline.filters.perplexity import has_kenlm, kenlm_scorer

WORDS = ("<unk>", "<s>", "</s>", "a", "b", "c", "d")
SENTENCES = ("a b c", "a b d", "a b", "c a b a b", "b", "d d d d", "a c b d", "")


def train(sentences: tuple[str, ...], order: int, words: tuple[str, ...] = WORDS) -> NGramModel:
    ids = [i for s in sentences for i in (1, *(words.index(w) for w in s.split()), 2)]
    return train_model(np.array(ids), words, order=order, begin=1, end=2)


def arpa(model: NGramModel) -> bytes:
    stream = io.BytesIO()
    write_arpa(model, stream)
    return stream.getvalue()


def probability(model: NGramModel, context: str, word: str) -> float:
    ids = [model.word_ids[w] for w in (*context.split(), word)]
    return float(10.0 ** model.log_probs(np.array(ids))[-1])


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize(
    "context", ["<s>", "a", "a b", "<s> a", "b a b", "d d d d", "<unk> a", "c c"]
)
def test_probabilities_sum_to_one(order: int, context: str) -> None:
    model = train(SENTENCES, order)
    total = sum(probability(model, context, word) for word in WORDS if word != "<s>")
    # Stored in single precision: seven words with a relative error of 1e-7 times ln 10 each.
    assert total == pytest.approx(1, abs=1e-5)


def test_bigrams_by_hand() -> None:
    """Interpolated Kneser-Ney with the fallback discounts, as so small a text has no others."""
    model = train(("a b", "a c"), 2, ("<unk>", "<s>", "</s>", "a", "b", "c"))
    # Words seen before: a: {<s>}, b: {a}, c: {a}, </s>: {b, c}; in all 5. Discounts 0.5 and 1.
    unigram = {"a": 0.5, "b": 0.5, "c": 0.5, "</s>": 1.0, "<unk>": 0.0}
    freed = (3 * 0.5 + 1.0) / 5
    lower = {word: mass / 5 + freed / 5 for word, mass in unigram.items()}
    for word, expected in lower.items():
        assert probability(model, "", word) == pytest.approx(expected, rel=1e-6)
    # a is followed by b and by c, once each; <s> by a, twice.
    assert probability(model, "a", "b") == pytest.approx((1 - 0.5) / 2 + 0.5 * lower["b"], rel=1e-6)
    assert probability(model, "<s>", "a") == pytest.approx((2 - 1) / 2 + 0.5 * lower["a"], rel=1e-6)
    assert probability(model, "a", "<unk>") == pytest.approx(0.5 * lower["<unk>"], rel=1e-6)


def test_discounts_are_estimated_from_the_counts() -> None:
    """Unigrams of a text whose counts of counts are 8, 4, 2, 1: discounts by Chen and Goodman."""
    words = tuple(f"w{n}" for n in range(15))
    times = [1] * 8 + [2] * 4 + [3] * 2 + [4]
    text = " ".join(w for w, n in zip(words, times, strict=True) for _ in range(n))
    model = train((text,), 1, ("<unk>", "<s>", "</s>", *words))
    counts = Counter([*times, 1])  # </s> is seen once, too
    t1, t2, t3, t4 = (counts[n] for n in (1, 2, 3, 4))
    y = t1 / (t1 + 2 * t2)
    d1, d2, d3 = 1 - 2 * y * t2 / t1, 2 - 3 * y * t3 / t2, 3 - 4 * y * t4 / t3
    total = sum(times) + 1
    freed = (t1 * d1 + t2 * d2 + (t3 + t4) * d3) / total
    for word, expected in (("w0", 1 - d1), ("w8", 2 - d2), ("w12", 3 - d3), ("w14", 4 - d3)):
        by_hand = expected / total + freed / 17
        assert probability(model, "", word) == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize("order", [1, 2, 5])
def test_arpa_there_and_back(tmp_path: Path, order: int) -> None:
    model = train(SENTENCES, order)
    data = arpa(model)
    for name, content in (("m.arpa", data), ("m.arpa.gz", gzip.compress(data))):
        (tmp_path / name).write_bytes(content)
        found = read_arpa(tmp_path / name)
        assert found.words == model.words
        for ours, theirs in zip(model.orders, found.orders, strict=True):
            assert (ours.keys == theirs.keys).all()
            assert (ours.log_probs == theirs.log_probs).all()
            assert (ours.log_backoffs == theirs.log_backoffs).all()
    assert arpa(found) == data


def test_scores_equal_kenlm(tmp_path: Path) -> None:
    if not has_kenlm():
        pytest.skip("kenlm is not installed (it needs a compiler)")
    rng = np.random.default_rng(0)
    words = (*WORDS[:3], *(f"\u2581w{n}" for n in range(40)))
    chosen = [rng.zipf(1.5, 12) % 40 for _ in range(400)]
    sentences = tuple(" ".join(f"\u2581w{n}" for n in row) for row in chosen)
    model = train(sentences, 5, words)
    path = tmp_path / "m.arpa"
    path.write_bytes(arpa(model))
    score = kenlm_scorer(path)
    unseen = [" ".join(f"\u2581w{n}" for n in rng.integers(0, 40, 30)) for _ in range(50)]
    for sentence in (*sentences[:50], *unseen, "", "no such words \u2581w1", "\u2581w0 " * 500):
        tokens = sentence.split()
        # KenLM adds in single precision: an error of 1e-7 for each of up to 500 terms of size 3.
        assert model.score(tokens) == pytest.approx(score(tokens), rel=1e-5, abs=1e-5)


FOREIGN = """
a comment before the data

\\data\\
ngram  1= 4
ngram 2=2

\\1-grams:
-1.0 <unk>
-99\t<s>\t-0.30103
-0.69897 a -0.2
-0.5\t</s>

\\2-grams:
-0.1\t<s> a
-0.2 a </s>

\\end\\
"""


def test_arpa_of_other_programs(tmp_path: Path) -> None:
    """Blanks for tabs, back-offs left out where they are zero, n-grams in any order."""
    path = tmp_path / "m.arpa"
    path.write_text(FOREIGN)
    model = read_arpa(path)
    assert model.score(["a"]) == pytest.approx(-0.3, abs=1e-6)
    # <s> backs off to <unk>; <unk> is followed by </s>, with no back-off of its own.
    assert model.score(["b"]) == pytest.approx(-0.30103 - 1.0 - 0.5, abs=1e-6)
    path.write_text(FOREIGN.replace("1= 4", "1= 3").replace("-1.0 <unk>\n", ""))
    assert read_arpa(path).score(["b"]) == pytest.approx(-0.30103 - 100 - 0.5, abs=1e-5)
    assert read_arpa(path).score(["a"]) == pytest.approx(-0.3, abs=1e-6)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\\data\\", "", "ends before"),
        ("ngram  1= 4\nngram 2=2\n", "", "no 'ngram 1='"),
        ("\\2-grams:", "\\3-grams:", "expected '\\\\2-grams:', found '\\\\3-grams:'"),
        ("ngram 2=2", "ngram 2=3", "2-grams: a line is not a 2-gram"),
        ("-0.2 a </s>", "-0.2 a b </s> 0 0", "2-grams: a line is not"),
        ("-0.2 a </s>", "zero a </s>", "2-grams: .*zero"),
        ("-0.2 a </s>", "-0.2 a nowhere", "'nowhere', which is not a unigram"),
        ("\\end\\", "", "ends before"),
        ("<s>", "x", "no unigram '<s>'"),
    ],
)
def test_bad_arpa(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "m.arpa"
    path.write_text(FOREIGN.replace(old, new))
    with pytest.raises(ValueError, match=message):
        read_arpa(path)


def test_a_context_that_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "m.arpa"
    path.write_text(
        FOREIGN.replace("ngram 2=2", "ngram 2=2\nngram 3=1").replace(
            "\\end\\", "\\3-grams:\n-0.1 a a a\n\n\\end\\"
        )
    )
    with pytest.raises(ValueError, match="first 2 words of a 3-gram are not an n-gram"):
        read_arpa(path)


@pytest.mark.parametrize(
    ("ids", "order", "message"),
    [([], 3, "no text"), ([1, 2], 0, "order"), ([3, 4], 3, "no text")],
)
def test_refusals(ids: list[int], order: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_model(np.array(ids, dtype=np.int64), WORDS, order=order, begin=1, end=2)


@given(st.lists(st.text(st.sampled_from("abcd "), max_size=12), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_any_text_gives_a_model_that_sums_to_one(sentences: list[str]) -> None:
    spaced = tuple(" ".join(s.replace(" ", "")) for s in sentences)
    model = train(spaced, 4)
    for context in ("", "<s>", "a b", "<s> a"):
        total = sum(probability(model, context, word) for word in WORDS if word != "<s>")
        assert total == pytest.approx(1, abs=1e-5)
