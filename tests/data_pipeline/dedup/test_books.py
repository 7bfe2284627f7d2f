"""Book-level deduplication against overlaps counted with Python's sets of words."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipeline.dedup.books import find_overlapping_books
from data_pipeline.dedup.rule import DocumentFile
from data_pipeline.document import Document
from data_pipeline.text.word_ngrams import distinct, ngram_hashes, word_hashes
from recipes.llama1_corpus import books_source


def write_shards(
    folder: Path, shards: Sequence[dict[str, str]], rows_per_group: int = 2
) -> list[DocumentFile]:
    """One Parquet file per {id: text}."""
    files = []
    for number, shard in enumerate(shards):
        table = pa.table(
            {"id": pa.array(shard, pa.string()), "text": pa.array(shard.values(), pa.string())}
        )
        path = folder / f"{number}.parquet"
        pq.write_table(table, path, row_group_size=rows_per_group)
        files.append(DocumentFile.whole(path))
    return files


def words_of(text: str) -> list[str]:
    return "".join(c if c.isalnum() else " " for c in text.lower()).split()


def ngrams_of(text: str) -> set[tuple[str, ...]]:
    words = words_of(text)
    return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}


def true_overlap(first: str, second: str) -> float:
    a, b = ngrams_of(first), ngrams_of(second)
    return len(a & b) / min(len(a), len(b)) if a and b else 0.0


def novel(seed: int, num_words: int = 3_000) -> str:
    """Words of a vocabulary that all novels share."""
    rng = random.Random(seed)
    vocabulary = ["".join(rng.choices("abcdefgh", k=4)) for _ in range(500)]
    return " ".join(rng.choices(vocabulary, k=num_words))


def with_typos(text: str, share: float, seed: int = 0) -> str:
    rng = random.Random(seed)
    return " ".join("typo" if rng.random() < share else word for word in text.split())


def removed(
    folder: Path, *shards: dict[str, str], max_samples: int = 1 << 16
) -> list[tuple[str, str]]:
    found = find_overlapping_books(
        write_shards(folder, shards), min_overlap=0.9, max_samples=max_samples
    )
    books = [book for shard in shards for book in shard.items()]
    for gone, kept, similarity in found.tolist():
        # The same sets, but for collisions of 64-bit hashes.
        assert similarity == np.float32(true_overlap(books[gone][1], books[kept][1]))
    return [(books[gone][0], books[kept][0]) for gone, kept, _ in found.tolist()]


A, B, C = novel(1), novel(2), novel(3)


@pytest.mark.parametrize(
    ("shards", "expected"),
    [
        ([{}], []),
        ([{"a": A}, {"b": B}], []),
        # Typography and case are no difference; of equal books the first stays.
        ([{"a": A}, {"b": A.upper().replace(" ", "\n")}], [("b", "a")]),
        # 1 % of the words differ: about 95 % of the 5-grams are shared.
        ([{"a": A, "b": with_typos(A, 0.01)}], [("b", "a")]),
        ([{"b": with_typos(A, 0.01)}, {"a": A}], [("a", "b")]),
        # 5 %: about 77 %.
        ([{"a": A, "b": with_typos(A, 0.05)}], []),
        # Books within an omnibus go, the omnibus stays, wherever it stands.
        (
            [{"omnibus": f"{A}\n\n{B}", "a": A}, {"b": B, "c": C}],
            [("a", "omnibus"), ("b", "omnibus")],
        ),
        ([{"a": A, "b": B}, {"c": C, "omnibus": f"{A} {B}"}], [("a", "omnibus"), ("b", "omnibus")]),
        # Half a book in common is no overlap.
        ([{"a": f"{A} {B}", "b": f"{B} {C}"}], []),
        # A chain: the middle one goes for the first, and what only it overlaps with stays.
        (
            [
                {
                    "1": A,
                    "2": with_typos(A, 0.015, 1),
                    "3": with_typos(with_typos(A, 0.015, 1), 0.015, 2),
                }
            ],
            [("2", "1")],
        ),
        ([{"short": "too short", "empty": "", "a": A}], []),
        # Fewer words than a candidate's shingle have no chance to be found.
        ([{"a": " ".join(A.split()[:12]), "b": A}], []),
        ([{"a": " ".join(A.split()[:200]), "b": A}], [("a", "b")]),
    ],
)
def test_what_goes_and_for_what(
    tmp_path: Path, shards: list[dict[str, str]], expected: list[tuple[str, str]]
) -> None:
    assert removed(tmp_path, *shards) == expected


def test_many_copies_of_one_work(tmp_path: Path) -> None:
    """More than are paired with one another: all but the largest go."""
    copies = {str(i): with_typos(A, 0.003, i) for i in range(60)} | {"whole": A + " " + C}
    found = removed(tmp_path, copies)
    assert len(found) == 60
    assert {kept for _, kept in found} == {"whole"}


def test_result_does_not_depend_on_sampling_or_shards(tmp_path: Path) -> None:
    texts = {str(i): novel(i, 4_000) for i in range(12)}
    texts |= {f"{i} again": with_typos(texts[str(i)], 0.008, i) for i in range(6)}
    expected = [(f"{i} again", str(i)) for i in range(6)]
    assert removed(tmp_path, texts) == expected
    # 72,000 samples do not fit: the rate halves, to 1/16 at the end.
    assert removed(tmp_path, texts, max_samples=1 << 13) == expected
    single = [{book_id: text} for book_id, text in texts.items()]
    assert removed(tmp_path, *single, max_samples=1 << 13) == expected


def test_against_all_pairs(tmp_path: Path) -> None:
    """Random books with shared passages: of every pair above the bound one goes, no other book."""
    rng = random.Random(0)
    passages = [novel(100 + i, 400) for i in range(12)]
    texts = {}
    for i in range(30):
        chosen = rng.sample(passages, rng.randrange(1, 5))
        texts[str(i)] = with_typos(" ".join(chosen), rng.choice([0, 0.005, 0.03]), i)
    gone = dict(removed(tmp_path, texts))
    pairs = [
        (first, second)
        for first in texts
        for second in texts
        if first < second and true_overlap(texts[first], texts[second]) > 0.9
    ]
    assert pairs
    assert all(first in gone or second in gone for first, second in pairs)
    assert not set(gone.values()) & set(gone)


@pytest.mark.parametrize("min_overlap", [0.4, 1.0])
def test_bound_out_of_range(tmp_path: Path, min_overlap: float) -> None:
    with pytest.raises(ValueError, match="min_overlap"):
        find_overlapping_books([], min_overlap=min_overlap)


def test_only_rows_that_are_kept_are_compared(tmp_path: Path) -> None:
    """And the others count in the numbering."""
    books = {"a": A, "b": B, "copy of a": A, "copy of b": B, "again": A}
    (file,) = write_shards(tmp_path, [books])
    keep = np.array([False, True, True, True, True])
    found = find_overlapping_books([replace(file, keep=keep), file], min_overlap=0.9)
    assert [(gone, kept) for gone, kept, _ in found.tolist()] == [
        *((3, 1), (4, 2), (5, 2), (6, 1), (7, 2), (8, 1), (9, 2))
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "one",
        "A  b\nC, d: e-f",
        "déjà vu — ǅ ß İ ﬁ",
        "漢字 かな",
        "a" * 900_000,
        "\ud800 x",
        "a0 0a",
    ],
)
def test_word_hashes_are_equal_where_words_are(text: str) -> None:
    hashes = word_hashes(text)
    words = words_of(text)
    assert len(hashes) == len(words)
    assert len(set(hashes.tolist())) == len(set(words))
    assert hashes.tolist() == [int(word_hashes(word)[0]) for word in words]


def test_words_across_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    text = novel(7, 500)
    whole = word_hashes(text)
    monkeypatch.setattr("data_pipeline.text.word_ngrams._CHUNK_CHARACTERS", 64)
    assert np.array_equal(word_hashes(text), whole)


def test_ngram_hashes() -> None:
    words = word_hashes("a b c a b c a b")
    hashes = ngram_hashes(words, 3)
    assert len(hashes) == 6
    assert hashes[0] == hashes[3] != hashes[1]
    assert len(distinct(hashes)) == 3
    assert len(distinct(ngram_hashes(words, 9))) == 0
    # The order of words counts.
    assert ngram_hashes(word_hashes("a b"), 2) != ngram_hashes(word_hashes("b a"), 2)


# --- Real books -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_editions_among_real_books(samples: Path, tmp_path: Path) -> None:
    """Of every known pair of editions one book goes, and no other book does."""
    source = books_source()
    texts: dict[str, str] = {}
    for file in source.inputs(samples / "raw" / "books").files:
        for item in source.read(file):
            assert isinstance(item, Document)
            edited = source.edits[0](item)
            # The copy that is equal is the pipeline's to remove.
            if isinstance(edited, Document) and edited.text not in texts.values():
                texts[file.source_file] = edited.text
    found = find_overlapping_books(write_shards(tmp_path, [texts]), min_overlap=0.9)
    gone = {list(texts)[number] for number in found["removed"]}
    pairs = [
        line.split(":")[0].split(" ~ ")
        for line in (samples / "reference" / "books" / "PAIRS.txt").read_text().splitlines()[1:]
    ]
    assert len(pairs) == 13
    assert all(
        first in gone or second in gone or first not in texts or second not in texts
        for first, second in pairs
    )
    # "A Christmas Carol" exists twice with one text; Huckleberry Finn has four editions.
    assert len(texts) == 45
    assert gone <= {name for pair in pairs for name in pair} | {
        "huckleberry-finn-editions/hfinn12.txt"
    }
    assert len(gone) == 12
    assert found["similarity"].min() > 0.95
