"""Corpus for the near-duplicate benchmark: files of this machine, with planted near-duplicates.

Documentation, manual pages and programs contain many near-duplicates of their own: licenses,
translations, versions of one library. Exact duplicates are removed.
"""

from __future__ import annotations

import gzip
import random
import re
import sysconfig
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

FOLDERS = (
    Path(sysconfig.get_path("stdlib")),
    Path("/usr/share/doc"),
    Path("/usr/share/man"),
    Path("/usr/include"),
)
SUFFIXES = frozenset(
    [".py", ".txt", ".rst", ".md", ".html", ".h", ".hpp", ".1", ".2", ".3", ".4", ".5", ".7", ".8"]
)
CHARACTERS = range(300, 40_000)
"""Allowed length of a text."""
MIN_WORDS = 50
PLANTED_SHARE = 0.1
SIMILARITIES = (0.4, 1.0)
WORD = re.compile(r"[^\W_]+")
_FILE_BYTES = 8 << 20


@dataclass(frozen=True)
class Corpus:
    texts: tuple[str, ...]
    planted: tuple[tuple[int, int], ...]
    """(original, copy) of each planted pair, by index in `texts`."""

    @property
    def num_bytes(self) -> int:
        return sum(len(text.encode()) for text in self.texts)

    def part(self, num_bytes: int) -> Corpus:
        """The first texts, up to a size, with the planted copies among them; copies beyond the end
        are lost, so that there are fewer."""
        size = 0
        end = 0
        while end < len(self.texts) and size < num_bytes:
            size += len(self.texts[end].encode())
            end += 1
        return Corpus(self.texts[:end], tuple(pair for pair in self.planted if max(pair) < end))


def make_corpus(num_bytes: int, ngram_words: int, seed: int = 0) -> Corpus:
    """About `num_bytes` of texts from `FOLDERS`, or all there are; one in eleven is an edited copy
    of another, at n-gram similarities spread over `SIMILARITIES`. Copies are near their originals,
    before or after them.
    """
    rng = random.Random(seed)
    texts: list[str] = []
    planted = []
    size = 0
    for text in machine_texts(rng):
        if size >= num_bytes:
            break
        added = [text]
        if rng.random() < PLANTED_SHARE:
            planted.append((len(texts), len(texts) + 1))
            added.append(edited(text, rng.uniform(*SIMILARITIES), ngram_words, rng))
        texts += added
        size += sum(len(some.encode()) for some in added)
    # Shuffled within a window, so that copies do not always come second.
    order = sorted(range(len(texts)), key=lambda place: place + rng.uniform(0, 200))
    places = {old: new for new, old in enumerate(order)}
    pairs = tuple((places[one], places[other]) for one, other in planted)
    return Corpus(tuple(texts[place] for place in order), pairs)


def machine_texts(rng: random.Random) -> Iterator[str]:
    """Distinct texts, in an order chosen by the generator."""
    paths = sorted(
        path
        for folder in FOLDERS
        for path in folder.rglob("*")
        if path.with_suffix("" if path.suffix == ".gz" else path.suffix).suffix in SUFFIXES
    )
    rng.shuffle(paths)
    seen: set[int] = set()
    for path in paths:
        text = _text_of(path)
        if text is None or len(text) not in CHARACTERS or hash(text) in seen:
            continue
        if len(WORD.findall(text)) >= MIN_WORDS:
            seen.add(hash(text))
            yield text


def _text_of(path: Path) -> str | None:
    if path.is_symlink() or not path.is_file():
        return None
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        text = data.decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError):
        return None
    return None if "\0" in text else text


def edited(text: str, similarity: float, ngram_words: int, rng: random.Random) -> str:
    """`text` with single words replaced, so many that about this Jaccard index of n-grams is left.

    An n-gram is kept if none of its words is replaced. If a share q is kept, the Jaccard index of
    both texts' n-grams is q / (2 - q).
    """
    left = 2 * similarity / (1 + similarity)
    replaced = 1 - left ** (1 / ngram_words)

    def edit(match: re.Match[str]) -> str:
        return f"x{rng.randrange(10**6)}" if rng.random() < replaced else match.group()

    return WORD.sub(edit, text)


def write_documents(texts: Iterable[str], folder: Path) -> None:
    """Write Parquet files like a build's."""
    group: list[str] = []
    first = size = num_files = 0

    def write() -> None:
        ids = [str(first + index) for index in range(len(group))]
        path = folder / f"{num_files:05}.parquet"
        table = pa.table({"id": ids, "text": group})
        pq.write_table(table, path, compression="zstd", row_group_size=1_000)

    for text in texts:
        group.append(text)
        size += len(text.encode())
        if size >= _FILE_BYTES:
            write()
            first, size, num_files = first + len(group), 0, num_files + 1
            group.clear()
    if group:
        write()
