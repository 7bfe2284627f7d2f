"""Contenders of the near-duplicate benchmark: this project's rule, and MinHash packages.

Each gets the texts in order and returns which to remove. Similarity is the Jaccard index of sets of
word n-grams, a word being a run of letters and digits in lower case; datatrove splits words in its
own way. Of two similar texts, the first is kept.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import struct
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.data.near_duplicate_texts import WORD, write_documents
from data_pipeline.dedup.near import near_duplicates
from data_pipeline.dedup.rule import Comparison, DocumentFile
from data_pipeline.executors.local import Processes

NGRAM_WORDS = 5
NUM_HASHES = 128
OURS, DATATROVE, DATASKETCH, RENSA = "ours", "datatrove", "datasketch", "rensa"

Remover = Callable[[Sequence[str], float], list[int]]
"""(texts, minimum similarity) -> indexes of the texts to remove."""


@dataclass(frozen=True)
class Tool:
    name: str
    package: str | None
    """Package whose version is reported; None for ours."""
    remove: Remover

    def is_installed(self) -> bool:
        return self.package is None or importlib.util.find_spec(self.package) is not None


def remove_from_folder(
    folder: Path, min_similarity: float, jobs: int = 1, memory_budget: int = 1 << 30
) -> list[int]:
    """Ours, on the documents in a folder of Parquet files."""
    files = [DocumentFile.whole(path) for path in sorted(folder.glob("*.parquet"))]
    with (
        tempfile.TemporaryDirectory() as work,
        contextlib.redirect_stderr(io.StringIO()),  # progress bars
    ):
        comparison = Comparison(files, Processes(jobs), memory_budget, Path(work))
        found = near_duplicates(comparison, min_similarity=min_similarity, ngram_words=NGRAM_WORDS)
    removed: list[int] = found["removed"].tolist()
    return removed


def ours(texts: Sequence[str], min_similarity: float) -> list[int]:
    """Includes writing the texts to files, since the others get them in memory."""
    with tempfile.TemporaryDirectory() as folder:
        write_documents(texts, Path(folder))
        return remove_from_folder(Path(folder), min_similarity)


def word_ngrams(text: str) -> list[str]:
    words = WORD.findall(text.lower())
    return [" ".join(words[i : i + NGRAM_WORDS]) for i in range(len(words) - NGRAM_WORDS + 1)]


def datasketch(texts: Sequence[str], min_similarity: float) -> list[int]:
    """Its LSH index, with the bands that it chooses for the threshold, by the faster of its
    hashes."""
    import xxhash
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=min_similarity, num_perm=NUM_HASHES)
    removed = []
    for place, text in enumerate(texts):
        sketch = MinHash(num_perm=NUM_HASHES, hashfunc=xxhash.xxh32_intdigest)
        sketch.update_batch([ngram.encode() for ngram in word_ngrams(text)])
        if index.query(sketch):
            removed.append(place)
        else:
            index.insert(place, sketch)
    return removed


def rensa(texts: Sequence[str], min_similarity: float) -> list[int]:
    """Its deduplicator, which verifies candidates by their sketches. Sixteen bands: with its
    default of eight it misses six times as many pairs."""
    from rensa import RMinHashDeduplicator

    deduplicator = RMinHashDeduplicator(
        threshold=min_similarity, num_perm=NUM_HASHES, use_lsh=True, num_bands=16
    )
    kept = deduplicator.add_pairs(
        (str(place), word_ngrams(text)) for place, text in enumerate(texts)
    )
    return [place for place, is_kept in enumerate(kept) if not is_kept]


def datatrove(texts: Sequence[str], min_similarity: float) -> list[int]:
    """Its first three steps with its defaults: English words, fourteen buckets of eight hashes.
    These fix its threshold (its source states 0.72), regardless of `min_similarity`. It keeps one
    text of a cluster, not always the first."""
    import xxhash
    from datatrove.data import Document
    from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
    from datatrove.utils.logging import logger

    logger.remove()
    config = MinhashConfig(n_grams=NGRAM_WORDS)
    with tempfile.TemporaryDirectory() as folder:
        signatures, buckets, removed = (f"{folder}/{name}" for name in ("sig", "dups", "remove"))
        documents: Iterator[Document] = (
            Document(text=text, id=str(place)) for place, text in enumerate(texts)
        )
        sign = MinhashDedupSignature(signatures, config)
        # It was written for xxhash 3, which encodes strings itself.
        sign._hash_func = lambda ngram: xxhash.xxh64_intdigest(ngram.encode())
        sign.run(documents)
        for bucket in range(config.num_buckets):
            step = MinhashDedupBuckets(signatures, buckets, config=config)
            step.run(rank=bucket, world_size=config.num_buckets)
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar
            MinhashDedupCluster(buckets, removed, config=config).run()
        found = Path(removed, "000000.remove")
        data = found.read_bytes() if found.exists() else b""
    return sorted(place for (place,) in struct.iter_unpack("<I", data))


TOOLS = (
    Tool(OURS, None, ours),
    Tool(DATASKETCH, "datasketch", datasketch),
    Tool(RENSA, "rensa", rensa),
    Tool(DATATROVE, "datatrove", datatrove),
)
