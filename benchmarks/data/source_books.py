"""Books: Project Gutenberg boilerplate and book overlap, against packages that do a part of it.

    pip install -r benchmarks/requirements.txt
    python -m benchmarks.data.source_books [--samples FOLDER] [--rehearse]
    python -m benchmarks.data.source_books --gib 2

FOLDER holds raw/books (`*.txt`); without it books are synthetic. `--gib` shows only the memory and
time of the overlaps of that many GiB of books. Throughput is per CPU second of the process;
contenders take turns in every round, and a ratio is the median over rounds of ratios within a
round. gutenberg-cleaner strips header and footer; datasketch estimates the Jaccard index of sets of
5-grams, which is not containment: it does not find a book in an omnibus.
"""

from __future__ import annotations

import argparse
import random
import resource
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasketch import MinHash
from gutenberg_cleaner import simple_cleaner

from benchmarks.measuring.turns import Work, compare
from data_pipeline.dedup.books import find_overlapping_books
from data_pipeline.dedup.rule import DocumentFile, Removals
from data_pipeline.document import Document
from data_pipeline.sources.books import gutenberg
from recipes.llama1_corpus import books_source

TELLING = ("gutenberg", "proofread", "transcriber's note", "etext edition", "pgdp")


def made(num_books: int, num_words: int) -> dict[str, str]:
    """Synthetic books of a common vocabulary, every fourth a copy of the one before with 1 %
    typos."""
    rng = random.Random(0)
    vocabulary = ["".join(rng.choices("abcdefghij", k=rng.randrange(2, 9))) for _ in range(9_000)]
    texts: dict[str, str] = {}
    words: list[str] = []
    for i in range(num_books):
        copied = [word if rng.random() > 0.01 else "typo" for word in words]
        words = copied if i % 4 == 3 else rng.choices(vocabulary, k=num_words)
        lines = [" ".join(words[j : j + 10]) for j in range(0, len(words), 10)]
        marks = ("START", "END")
        start, end = (f"*** {mark} OF THE PROJECT GUTENBERG EBOOK {i} ***" for mark in marks)
        texts[f"{i}.txt"] = (
            f"Title: {i}\n\n{start}\n\n" + "\n".join(lines) + f"\n\n{end}\nLicense\n"
        )
    return texts


def minhash(text: str) -> MinHash:
    words = text.lower().split()
    sketch = MinHash(num_perm=128)
    sketch.update_batch([" ".join(words[i : i + 5]).encode() for i in range(len(words) - 4)])
    return sketch


def residue(texts: list[str]) -> int:
    return sum(text.lower().count(word) for text in texts for word in TELLING)


def overlaps(texts: dict[str, str], folder: Path) -> Removals:
    path = folder / "books.parquet"
    table = pa.table({"id": list(texts), "text": list(texts.values())})
    pq.write_table(table, path, row_group_size=8)
    return find_overlapping_books([DocumentFile.whole(path)], min_overlap=0.9)


def overlaps_of(gib: float) -> None:
    """Overlaps of many synthetic books, every fourth a copy with typos."""
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "books.parquet"
        few = list(made(4, 90_000).values())
        size = 0
        with pq.ParquetWriter(path, pa.schema([("id", pa.string()), ("text", pa.string())])) as out:
            while size < gib * (1 << 30):
                # Substituted letters make a distinct book of the same structure.
                seed = random.Random(size)
                key = str.maketrans("abcdefghij", "".join(seed.sample("abcdefghijklmnopq", 10)))
                texts = [text.translate(key) for text in few]
                ids = [f"{size} {index}" for index in range(len(few))]
                out.write_table(pa.table({"id": ids, "text": texts}))
                size += sum(map(len, texts))
        start = time.process_time()
        found = find_overlapping_books(
            [DocumentFile.whole(path)], min_overlap=0.9, max_samples=1 << 22
        )
        seconds = time.process_time() - start
        print(f"{size / (1 << 30):.2f} GiB: {len(found)} removed, {size / 1e6 / seconds:.1f} MB/s")


def peak() -> str:
    return f"\npeak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB"


def main() -> None:
    parser = argparse.ArgumentParser(description="speed of the books source")
    parser.add_argument("--samples", type=Path, help="folder with raw/books")
    parser.add_argument("--rehearse", action="store_true", help="everything in a small size")
    parser.add_argument("--gib", type=float, help="only the memory for books of this size")
    arguments = parser.parse_args()
    if arguments.gib is not None:
        overlaps_of(arguments.gib)
        print(peak())
        return
    rounds = 1 if arguments.rehearse else 5
    raw = made(8 if arguments.rehearse else 40, 2_000 if arguments.rehearse else 90_000)
    if arguments.samples is not None:
        source = books_source()
        files = source.inputs(arguments.samples / "raw" / "books").files
        items = [item for file in files for item in source.read(file)]
        raw = {item.source_file: item.text for item in items if isinstance(item, Document)}
    size = sum(len(text.encode()) for text in raw.values())
    print(f"{len(raw)} books, {size / 1e6:.1f} MB")

    work: dict[str, Work] = {
        "ours": lambda: [gutenberg.book(text) for text in raw.values()],
        "gutenberg-cleaner": lambda: [simple_cleaner(text) for text in raw.values()],
    }
    compare("Project Gutenberg's header, footer, credits, notes", work, size / 1e6, rounds)
    books = {name: gutenberg.book(text) for name, text in raw.items()}
    left = residue(list(books.values())), residue([simple_cleaner(text) for text in raw.values()])
    print(f"  telling words left: ours {left[0]}, gutenberg-cleaner {left[1]}")

    with tempfile.TemporaryDirectory() as folder:
        work = {
            "ours: candidates and true overlaps": lambda: overlaps(books, Path(folder)),
            "datasketch: sketches alone": lambda: [minhash(text) for text in books.values()],
        }
        compare("overlaps", work, size / 1e6, min(rounds, 2))
        for removal in overlaps(books, Path(folder)):
            print(f"  {removal.removed_id} -> {removal.kept_id}: {removal.similarity:.3f}")
    print(peak())


if __name__ == "__main__":
    main()
