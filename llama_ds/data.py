"""Data loader: token store -> micro-batches, in an order computed from (seed, row number).

A row is one training sequence.

1. A source's token stream is split into windows of `sequence_length + 1` tokens that overlap by
   one, so that every token but the first is predicted once per epoch.
2. Row numbers are grouped in blocks of `block_rows`. Each block has exactly every source's share,
   rounded to whole rows; a keyed permutation shuffles the sources within the block.
3. A source's n-th row overall is row `n % rows_per_epoch` of epoch `n // rows_per_epoch`; another
   keyed permutation, reshuffled each epoch, maps it to a window.
4. The rows of a global batch go to micro-batches and ranks in row order, so that the batch is the
   same for every number of ranks.

The loader is stateless: a run resumes from the number of rows it has consumed.

Shapes: B sequences of the micro-batch, S sequence_length. All tensors are int64 on the CPU.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import math
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from data_pipeline.tokens.store import TokenStore, TokenStream
from llama_ds.batch import BatchPlan
from llama_ds.config import DataConfig

IGNORED = -100  # label that the loss ignores; PyTorch's and Hugging Face's value

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """A micro-batch of one rank."""

    input_ids_BS: torch.Tensor
    labels_BS: torch.Tensor
    """Pre-shifted: labels_BS[b, s] is the token that follows input_ids_BS[b, s], or -100."""
    position_ids_BS: torch.Tensor | None
    """With document masking only: restart at 0 at each document's first token."""
    num_targets: int
    """Labels that are not -100."""


def check_vocab(store: TokenStore, vocab_size: int) -> None:
    """ValueError unless a model of `vocab_size` can train on `store`."""
    manifest = store.manifest
    if manifest.vocab_size > vocab_size:
        raise ValueError(
            f"model.vocab_size ({vocab_size}) must not be below the vocabulary size of data.store "
            f"{store.path} ({manifest.vocab_size}); set --model.vocab-size {manifest.vocab_size}, "
            "or use a store tokenized with the model's tokenizer"
        )


# --- sampling order ---------------------------------------------------------------------------

_WORD = (1 << 64) - 1
# Four rounds make a Feistel network a pseudo-random permutation in theory (Luby & Rackoff 1988);
# domains here can be a few bits wide, where more rounds mix better.
_ROUNDS = 8


def permute(index: int, size: int, key: int) -> int:
    """Image of `index` under the pseudo-random permutation of range(size) with key `key`; O(1).

    A balanced Feistel network permutes range(4**k) for the smallest k >= 1 with 4**k >= size;
    values outside range(size) are sent through it again until one falls inside ("cycle walking",
    Black & Rogaway, Ciphers with Arbitrary Finite Domains, 2002), which takes fewer than four
    passes on average.
    """
    assert 0 <= index < size, f"index {index} lies outside range({size})"
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half_bits) - 1
    round_keys = [_mix(key + number) for number in range(_ROUNDS)]
    while True:
        left, right = index >> half_bits, index & mask
        for round_key in round_keys:
            left, right = right, left ^ (_mix(right ^ round_key) & mask)
        index = left << half_bits | right
        if index < size:
            return index


def _mix(value: int) -> int:
    """The output function of the splitmix64 generator (Steele, Lea & Flood 2014)."""
    value = (value + 0x9E3779B97F4A7C15) & _WORD
    value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & _WORD
    value = ((value ^ value >> 27) * 0x94D049BB133111EB) & _WORD
    return value ^ value >> 31


def _key(*parts: int | str) -> int:
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


class Place(NamedTuple):
    """One training row: a window of a source's token stream, and the epoch of that source."""

    source: str
    epoch: int
    window: int


class Mixture:
    """Infinite, deterministic sampling order over all sources.

    `quotas` are the rows of each source in a block of `block_rows`: the shares, normalized and
    rounded by largest remainder. Empty shares mean shares in proportion to the sources' sizes.
    ValueError where `block_rows` is too small for a source's share.
    """

    def __init__(
        self,
        rows_per_epoch: Mapping[str, int],
        shares: Mapping[str, float],
        block_rows: int,
        seed: int,
    ) -> None:
        if not shares:
            shares = {source: rows for source, rows in rows_per_epoch.items() if rows > 0}
        self.quotas = dict(zip(shares, _apportion(block_rows, list(shares.values())), strict=True))
        for source, quota in self.quotas.items():
            if quota == 0:
                share = shares[source] / sum(shares.values())
                raise ValueError(
                    f"data.block_rows ({block_rows}) is too small for source {source} with share "
                    f"{share:.3g}: it would never be sampled; set --data.block-rows to "
                    f"{math.ceil(1 / share)} or more"
                )
        self._rows_per_epoch = {source: rows_per_epoch[source] for source in shares}
        self._sources = list(shares)
        self._starts = [0, *itertools.accumulate(self.quotas.values())]
        self._block_rows = block_rows
        self._seed = seed

    def locate(self, row: int) -> Place:
        """Source, epoch and window of row number `row` of the run, from 0."""
        index, ordinal = self._source_row(row)
        source = self._sources[index]
        rows = self._rows_per_epoch[source]
        epoch, position = divmod(ordinal, rows)
        return Place(source, epoch, permute(position, rows, _key(self._seed, source, epoch)))

    def epochs(self, num_rows: int) -> dict[str, float]:
        """Epochs of each source that the first `num_rows` rows take."""
        blocks, rest = divmod(num_rows, self._block_rows)
        counts = [blocks * quota for quota in self.quotas.values()]
        for row in range(num_rows - rest, num_rows):
            counts[self._source_row(row)[0]] += 1
        return {
            source: count / self._rows_per_epoch[source]
            for source, count in zip(self._sources, counts, strict=True)
        }

    def _source_row(self, row: int) -> tuple[int, int]:
        """Index of the source of row `row`, and the number of earlier rows of that source."""
        block, index = divmod(row, self._block_rows)
        slot = permute(index, self._block_rows, _key(self._seed, "block", block))
        source = bisect.bisect_right(self._starts, slot) - 1
        start, end = self._starts[source], self._starts[source + 1]
        return source, block * (end - start) + slot - start


def _apportion(total: int, weights: list[float]) -> list[int]:
    """Whole numbers with sum `total`, in proportion to `weights`, by largest remainder."""
    scale = total / sum(weights)
    exact = [weight * scale for weight in weights]
    # Floating-point rounding can put a whole number just below itself.
    counts = [math.floor(value + 1e-9) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: counts[i] - exact[i])
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts


# --- training ---------------------------------------------------------------------------------


class TrainingData:
    """The training split of a store as an infinite, indexed sequence of rows."""

    def __init__(
        self, store: TokenStore, config: DataConfig, sequence_length: int, seed: int
    ) -> None:
        sources = config.shares or config.epochs or store.sources
        self._streams = {source: store.stream(source, "train") for source in sources}
        rows = {source: _num_windows(s, sequence_length) for source, s in self._streams.items()}
        chosen = bool(config.shares or config.epochs)
        _check_lengths(rows, self._streams, sequence_length, all_needed=chosen)
        weights = {source: epochs * rows[source] for source, epochs in config.epochs.items()}
        self.mixture = Mixture(rows, config.shares or weights, config.block_rows, seed)
        self._sequence_length = sequence_length
        self._document_masking = config.document_masking

    def rows(self, indices: range) -> Batch:
        """A batch of the rows with these numbers."""
        places = [self.mixture.locate(index) for index in indices]
        rows = [
            _read_row(
                self._streams[place.source],
                place.window,
                self._sequence_length,
                self._document_masking,
            )
            for place in places
        ]
        return _stack(rows, self._document_masking)

    def micro_batch(self, step: int, accum_step: int, dp_rank: int, plan: BatchPlan) -> Batch:
        """Micro-batch `accum_step` of rank `dp_rank` in `step`, all counted from 0."""
        rows_per_pass = plan.dp_size * plan.micro_batch_size
        first = plan.first_row(step) + accum_step * rows_per_pass + dp_rank * plan.micro_batch_size
        return self.rows(range(first, first + plan.micro_batch_size))

    def epochs(self, num_rows: int) -> dict[str, float]:
        """Epochs of each source that the first `num_rows` rows take."""
        return self.mixture.epochs(num_rows)


def _num_windows(stream: TokenStream, sequence_length: int) -> int:
    return max(0, stream.num_tokens - 1) // sequence_length


def _check_lengths(
    rows: Mapping[str, int],
    streams: Mapping[str, TokenStream],
    sequence_length: int,
    all_needed: bool,
) -> None:
    """ValueError where a source (or, with all sources optional, every one) gives no row."""
    short = [source for source, count in rows.items() if count == 0]
    if short and (all_needed or len(short) == len(rows)):
        source = max(short, key=lambda name: streams[name].num_tokens)
        raise ValueError(
            f"train.sequence_length ({sequence_length}) is too long for data.store: source "
            f"{source} has {streams[source].num_tokens} training tokens, and a sequence takes "
            f"{sequence_length + 1}; lower --train.sequence-length, or add data to the source"
        )


# --- held-out data ----------------------------------------------------------------------------


class HeldOutData:
    """Validation sequences, evenly spaced over the validation splits, in a fixed order.

    Up to `num_rows`, in proportion to the sources' sizes with at least one for each source that
    has held-out text. A stream's last window is padded (label -100), so that short ones count too.
    """

    def __init__(
        self,
        store: TokenStore,
        sequence_length: int,
        num_rows: int,
        *,
        document_masking: bool = False,
    ) -> None:
        self._store = store
        self._sequence_length = sequence_length
        self._document_masking = document_masking
        self._streams = {source: store.stream(source, "validation") for source in store.sources}
        available = {
            source: math.ceil((stream.num_tokens - 1) / sequence_length)
            for source, stream in self._streams.items()
            if stream.num_tokens > 1
        }
        self._places = [
            (source, i * available[source] // count)
            for source, count in _spread(available, num_rows).items()
            for i in range(count)
        ]

    @property
    def num_rows(self) -> int:
        return len(self._places)

    @property
    def rows_of(self) -> dict[str, int]:
        """Number of rows by source, of those that have any."""
        return dict(Counter(source for source, _ in self._places))

    def bytes_per_target(self, source: str) -> float:
        """UTF-8 bytes of text for each token that is predicted, over the whole split."""
        split = self._store.manifest.sources[source]["validation"]
        unpredicted = split.num_documents if self._document_masking else 1
        return split.num_text_bytes / max(1, split.num_tokens - unpredicted)

    def micro_batches(
        self, dp_rank: int, dp_size: int, micro_batch_size: int
    ) -> Iterator[tuple[str, Batch]]:
        """This rank's shard of all rows, each batch of one source.

        Every rank gets equally many batches of equal shape; padding rows have no targets.
        """
        batches = [
            (source, places[first : first + micro_batch_size])
            for source, places in self._by_source().items()
            for first in range(0, len(places), micro_batch_size)
        ]
        for first in range(0, len(batches), dp_size):
            index = first + dp_rank
            source, places = batches[index] if index < len(batches) else (batches[-1][0], [])
            rows = [self._row(*place) for place in places]
            rows += [self._padding_row()] * (micro_batch_size - len(rows))
            yield source, _stack(rows, self._document_masking)

    def _by_source(self) -> dict[str, list[tuple[str, int]]]:
        grouped = itertools.groupby(self._places, key=lambda place: place[0])
        return {source: list(places) for source, places in grouped}

    def _row(self, source: str, window: int) -> _Row:
        return _read_row(
            self._streams[source], window, self._sequence_length, self._document_masking
        )

    def _padding_row(self) -> _Row:
        empty = np.zeros(self._sequence_length, np.int64)
        return _Row(empty, np.full_like(empty, IGNORED), empty)


def _spread(available: Mapping[str, int], num_rows: int) -> dict[str, int]:
    """Rows of each source to take; all of them where `num_rows` allows."""
    if num_rows == 0 or not available:
        return {}
    total = sum(available.values())
    shares = _apportion(min(num_rows, total), [float(count) for count in available.values()])
    return {
        source: min(max(share, 1), available[source])
        for source, share in zip(available, shares, strict=True)
    }


# --- rows -------------------------------------------------------------------------------------


class _Row(NamedTuple):
    input_ids_S: npt.NDArray[np.int64]
    labels_S: npt.NDArray[np.int64]
    position_ids_S: npt.NDArray[np.int64]


def _read_row(
    stream: TokenStream, window: int, sequence_length: int, document_masking: bool
) -> _Row:
    start = window * sequence_length
    length = min(sequence_length + 1, stream.num_tokens - start)
    tokens = stream.window(start, length)
    input_ids = np.zeros(sequence_length, np.int64)
    labels = np.full(sequence_length, IGNORED, np.int64)
    input_ids[: length - 1] = tokens[:-1]
    labels[: length - 1] = tokens[1:]
    positions = np.arange(sequence_length, dtype=np.int64)
    if document_masking:
        starts = stream.window_starts(start, length)
        # The first token of a document is not predicted from the previous document.
        labels[starts[starts > 0] - 1] = IGNORED
        begins = np.zeros(sequence_length, np.int64)
        inside = starts[starts < sequence_length]
        begins[inside] = inside
        positions -= np.maximum.accumulate(begins)
    return _Row(input_ids, labels, positions)


def _stack(rows: list[_Row], document_masking: bool) -> Batch:
    labels_BS = np.stack([row.labels_S for row in rows])
    positions = [row.position_ids_S for row in rows]
    return Batch(
        input_ids_BS=torch.from_numpy(np.stack([row.input_ids_S for row in rows])),
        labels_BS=torch.from_numpy(labels_BS),
        position_ids_BS=torch.from_numpy(np.stack(positions)) if document_masking else None,
        num_targets=int(np.count_nonzero(labels_BS != IGNORED)),
    )


# --- prefetch ---------------------------------------------------------------------------------


def prefetch(items: Iterator[T], depth: int) -> Iterator[T]:
    """The same items, up to `depth` of them prefetched in a thread; exceptions propagate."""

    def take() -> list[T]:
        return list(itertools.islice(items, 1))

    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
    try:
        ahead = deque(pool.submit(take) for _ in range(depth))
        while taken := ahead.popleft().result():
            ahead.append(pool.submit(take))
            yield taken[0]
    finally:
        pool.shutdown(cancel_futures=True)
