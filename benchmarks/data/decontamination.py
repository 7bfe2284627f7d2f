"""Decontamination throughput, against GPT-3's rule in plain Python.

    python -m benchmarks.data.decontamination [--samples FOLDER] [--rehearse]

FOLDER holds `eval` (evaluation sets) and `raw/books` (`*.txt`, split into documents here); without
it both are synthetic. Throughput is per CPU second of the process; contenders take turns in every
round; a ratio is the median over rounds of ratios within a round. The plain version keeps every
13-gram of the items as a string in a set.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import tempfile
from pathlib import Path

from benchmarks.measuring.turns import Work, compare
from data_pipeline.document import Document
from data_pipeline.filters.decontamination import EvaluationIndex, build_index
from data_pipeline.filters.evaluation_sets import read_evaluations
from recipes.llama1_corpus import books_source

WORDS = 13
SIZES = (2_000, 20_000, 500_000)


def words_of(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def ngrams(text: str) -> set[str]:
    words = words_of(text)
    return {" ".join(words[i : i + WORDS]) for i in range(len(words) - WORDS + 1)}


def made_text(rng: random.Random, num_words: int) -> str:
    vocabulary = ["".join(rng.choices("abcdefghij", k=rng.randrange(2, 9))) for _ in range(9_000)]
    return " ".join(rng.choices(vocabulary, k=num_words))


def write_made_sets(folder: Path, num_items: int) -> None:
    words = made_text(random.Random(1), 60 * num_items).split()
    items = [" ".join(words[i : i + 60]) for i in range(0, len(words), 60)]
    text = "".join(json.dumps({"question": item}) + "\n" for item in items)
    (folder / "made.jsonl").write_text(text, encoding="utf-8")


def book_text(folder: Path) -> str:
    source = books_source()
    items = [item for file in source.inputs(folder).files for item in source.read(file)]
    return "\n".join(item.text for item in items if isinstance(item, Document))


def contained(index: EvaluationIndex, documents: list[str]) -> int:
    return sum(bool(index.hits(document)) for document in documents)


def main() -> None:
    parser = argparse.ArgumentParser(description="speed of decontamination")
    parser.add_argument("--samples", type=Path, help="folder with eval and raw/books")
    parser.add_argument("--rehearse", action="store_true", help="everything in a small size")
    arguments = parser.parse_args()
    rounds = 1 if arguments.rehearse else 5
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if arguments.samples is None:
            write_made_sets(folder, 100 if arguments.rehearse else 20_000)
            text = made_text(random.Random(0), 20_000 if arguments.rehearse else 1_600_000)
        else:
            text = book_text(arguments.samples / "raw" / "books")
            folder = arguments.samples / "eval"
        if arguments.rehearse:
            text = text[:100_000]
        index, account = build_index(folder, words=WORDS)
        items = [item for file in read_evaluations(folder) for item in file.items]
        plain = {n for item in items for n in ngrams(" ".join(s.text for s in item.strings))}
    num_items = sum(s.items for s in account.sets.values())
    arrays = (index.hashes, index.items, index.item_rows, index.prefixes, index.bits)
    memory = sum(array.nbytes for array in arrays)
    print(f"{num_items:,} items, {account.num_ngrams:,} n-grams, index {memory / 1e6:.1f} MB")
    print(f"text {len(text.encode()) / 1e6:.1f} MB; target: at least 20 MB/s")
    for size in SIZES:
        documents = [text[i : i + size] for i in range(0, len(text), size)]
        work: dict[str, Work] = {
            "ours": lambda documents=documents: contained(index, documents),  # type: ignore[misc]
            "plain Python": lambda documents=documents: [  # type: ignore[misc]
                plain.isdisjoint(ngrams(document)) for document in documents
            ],
        }
        compare(f"documents of {size:,} characters", work, len(text.encode()), rounds)
        both = contained(index, documents), sum(not plain.isdisjoint(ngrams(d)) for d in documents)
        print(f"  documents with items: ours {both[0]}, plain Python {both[1]}")


if __name__ == "__main__":
    main()
