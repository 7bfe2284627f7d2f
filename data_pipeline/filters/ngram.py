"""Back-off n-gram language models in ARPA format: reading, writing, and scoring in numpy.

A model of order N holds, for every n-gram in it (n <= N), log10 of the conditional probability of
its last word, and for n < N log10 of the back-off weight of the n-gram as a context. The
probability of a word is that of the longest n-gram in the model that ends in it, times the back-off
weights of the longer contexts (Katz 1987; equal to KenLM's `score`).

In memory an n-gram is its index in the sorted list of its order. Its key is
(index of its first n-1 words) * (number of words) + (id of its last word), so that n-grams of any
order are found by binary search in sorted 64-bit integers.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.files.compressed import Stream, one_line, open_stream

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
NEVER = -99.0
"""log10 probability of words that are never predicted (<s>), by ARPA's convention."""

_MISSING_UNKNOWN = -100.0  # KenLM's Config.unk_missing_logprob
_BATCH_ROWS = 1 << 18
_MAX_LINE_BYTES = 1 << 16
_COUNT = re.compile(rb"\s*ngram\s+(\d{1,2})\s*=\s*(\d{1,12})\s*")


@dataclass(frozen=True)
class Order:
    """All n-grams of one length, sorted by key."""

    keys: Ints
    log_probs: Floats
    """log10 of the conditional probability of the last word."""
    log_backoffs: Floats
    """log10 of the back-off weight as a context; 0 for n-grams of the highest order."""


@dataclass(frozen=True)
class NGramModel:
    words: tuple[str, ...]
    """Word by id: the unigrams' keys are 0, 1, ... in this order."""
    orders: tuple[Order, ...]
    """From unigrams up."""

    @cached_property
    def word_ids(self) -> dict[str, int]:
        return {word: index for index, word in enumerate(self.words)}

    def score(self, sentence: Sequence[str]) -> float:
        """log10 of the probability of the sentence's words and </s>, after <s>."""
        unknown = self.word_ids[UNKNOWN]
        ids = [self.word_ids.get(word, unknown) for word in sentence]
        whole = np.array([self.word_ids[BEGIN], *ids, self.word_ids[END]], dtype=np.int64)
        return float(self.log_probs(whole)[1:].sum())

    def log_probs(self, ids: Ints) -> npt.NDArray[np.float64]:
        """log10 of the probability of each word given up to N-1 words before it; shape as `ids`."""
        size = len(ids)
        total = np.zeros(size)
        place = ids  # index of the n-gram that begins at each position, or -1
        backoff = np.zeros(size)  # log10 back-off of the longer contexts that end before a position
        for length, order in enumerate(self.orders, start=1):
            starts = size - length + 1
            if starts <= 0 or len(order.keys) == 0:
                break
            if length > 1:
                place = find(order.keys, place[:starts], ids[length - 1 :], len(self.words))
            known = place >= 0
            ends = slice(length - 1, size)
            # A longer match replaces the shorter ones and their back-off weights.
            total[ends] = np.where(known, order.log_probs[place], total[ends])
            backoff[ends] = np.where(known, 0.0, backoff[ends])
            weights = np.where(known, order.log_backoffs[place], 0.0)
            backoff[length:] += weights[:-1]
        return total + backoff


def find(keys: Ints, contexts: Ints, words: Ints, num_words: int) -> Ints:
    """Indexes into `keys` of the n-grams (context, word), -1 where absent. All of equal shape."""
    wanted = contexts * num_words + words
    if len(keys) == 0:
        return np.full(len(wanted), -1)
    found = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where((contexts >= 0) & (keys[found] == wanted), found, -1)


# --- ARPA -------------------------------------------------------------------------------------


def write_arpa(model: NGramModel, stream: BinaryIO) -> None:
    """Write the model in ARPA format, with all digits of single precision."""
    counts = (f"ngram {n}={len(o.keys)}\n" for n, o in enumerate(model.orders, start=1))
    stream.write(("\\data\\\n" + "".join(counts)).encode())
    words = pa.array(model.words)
    for length, order in enumerate(model.orders, start=1):
        stream.write(f"\n\\{length}-grams:\n".encode())
        for begin in range(0, len(order.keys), _BATCH_ROWS):
            rows = slice(begin, begin + _BATCH_ROWS)
            columns = [words.take(ids) for ids in _word_columns(model, length, rows)]
            fields = [_as_text(order.log_probs[rows])]
            fields.append(pc.binary_join_element_wise(*columns, " ") if length > 1 else columns[0])
            if length < len(model.orders):
                fields.append(_as_text(order.log_backoffs[rows]))
            text = pc.binary_join_element_wise(pc.binary_join_element_wise(*fields, "\t"), "\n", "")
            stream.write(
                pc.binary_join(pa.ListArray.from_arrays([0, len(text)], text), "")[0].as_buffer()
            )
    stream.write(b"\n\\end\\\n")


def _as_text(numbers: Floats) -> pa.StringArray:
    return pc.cast(pa.array(numbers), pa.string())


def _word_columns(model: NGramModel, length: int, rows: slice) -> list[Ints]:
    """Ids of the first, second, ... word of the n-grams `rows` of one order."""
    columns: list[Ints] = []
    keys = model.orders[length - 1].keys[rows]
    for order in reversed(model.orders[: length - 1]):
        columns.append(keys % len(model.words))
        keys = order.keys[keys // len(model.words)]
    return [keys, *reversed(columns)]


def read_arpa(path: Path) -> NGramModel:
    """The model in an ARPA file (.gz allowed), as lmplz, SRILM, IRSTLM or `write_arpa` write it.

    ValueError naming the section where the file is not valid, or <s> or </s> is missing. Without
    <unk>, unknown words get log10 probability -100, as in KenLM.
    """
    with open_stream(path) as stream:
        counts = _read_counts(stream, path)
        words: tuple[str, ...] = ()
        orders: list[Order] = []
        for length, count in enumerate(counts, start=1):
            _skip_to(stream, f"\\{length}-grams:", path)
            tokens, log_probs, log_backoffs = _read_section(stream, length, count, path)
            if length == 1:
                words = tuple(tokens[0].to_pylist())
                orders.append(Order(np.arange(count), log_probs, log_backoffs))
                vocabulary = pa.array(words)
                continue
            ids = [_ids(column, vocabulary, length, path) for column in tokens]
            orders.append(_sorted_order(ids, orders, len(words), log_probs, log_backoffs, path))
        _skip_to(stream, "\\end\\", path)
    return _with_unknown(words, tuple(orders), path)


def _read_counts(stream: Stream, path: Path) -> list[int]:
    _skip_to(stream, "\\data\\", path)
    counts: list[int] = []
    while match := _COUNT.fullmatch(stream.readline(_MAX_LINE_BYTES)):
        if int(match.group(1)) != len(counts) + 1:
            break
        counts.append(int(match.group(2)))
    if not counts:
        raise ValueError(f"{path} is not a valid ARPA file: no 'ngram 1=' after \\data\\")
    return counts


def _skip_to(stream: Stream, marker: str, path: Path) -> None:
    """Read up to a section marker; only blank lines may precede it (any line before \\data\\)."""
    while line := stream.readline(_MAX_LINE_BYTES):
        text = line.strip().decode("utf-8", "replace")
        if text == marker:
            return
        if text and marker != "\\data\\":
            raise ValueError(
                f"{path} is not a valid ARPA file: expected '{marker}', found '{text[:80]}'"
            )
    raise ValueError(f"{path} is not a valid ARPA file, or truncated: it ends before '{marker}'")


def _read_section(
    stream: Stream, length: int, count: int, path: Path
) -> tuple[list[pa.ChunkedArray], Floats, Floats]:
    """Words (one column per position), log probabilities and log back-offs of one order."""
    words: list[list[pa.Array]] = [[] for _ in range(length)]
    log_probs, log_backoffs = [np.zeros(0, np.float32)], [np.zeros(0, np.float32)]
    left = count
    while left > 0:
        lines = list(itertools.islice(stream, min(left, _BATCH_ROWS)))
        left -= len(lines)
        parts = pc.ascii_split_whitespace(
            pc.ascii_trim_whitespace(pa.array(lines).cast(pa.string()))
        )
        sizes = pc.list_value_length(parts).to_numpy()
        if not lines or not np.isin(sizes, (length + 1, length + 2)).all():
            raise ValueError(
                f"{path}: section \\{length}-grams: a line is not a {length}-gram, or there are "
                f"fewer lines than the {count} in its header"
            )
        starts, flat = parts.offsets.to_numpy()[:-1], parts.values
        try:
            log_probs.append(flat.take(starts).cast(pa.float32()).to_numpy())
            backoffs = np.zeros(len(lines), np.float32)
            has = sizes == length + 2
            backoffs[has] = flat.take(starts[has] + length + 1).cast(pa.float32()).to_numpy()
        except pa.ArrowInvalid as error:
            raise ValueError(f"{path}: section \\{length}-grams: {one_line(error)}") from error
        log_backoffs.append(backoffs)
        for place, column in enumerate(words, start=1):
            column.append(flat.take(starts + place))
    columns = [pa.chunked_array(column, pa.string()) for column in words]
    return columns, np.concatenate(log_probs), np.concatenate(log_backoffs)


def _ids(column: pa.ChunkedArray, vocabulary: pa.Array, length: int, path: Path) -> Ints:
    ids = pc.index_in(column, vocabulary)
    if ids.null_count:
        word = column.filter(pc.is_null(ids))[0]
        raise ValueError(f"{path}: a {length}-gram has '{word}', which is not a unigram")
    found: Ints = ids.to_numpy().astype(np.int64)
    return found


def _sorted_order(
    ids: list[Ints],
    shorter: Sequence[Order],
    num_words: int,
    log_probs: Floats,
    log_backoffs: Floats,
    path: Path,
) -> Order:
    place = ids[0]
    for order, column in zip(shorter[1:], ids[1:-1], strict=True):
        place = find(order.keys, place, column, num_words)
    if len(place) and place.min() < 0:
        raise ValueError(
            f"{path}: the first {len(ids) - 1} words of a {len(ids)}-gram are not an n-gram"
        )
    keys = place * num_words + ids[-1]
    by_key = np.argsort(keys)
    return Order(keys[by_key], log_probs[by_key], log_backoffs[by_key])


def _with_unknown(words: tuple[str, ...], orders: tuple[Order, ...], path: Path) -> NGramModel:
    for word in (BEGIN, END):
        if word not in words:
            raise ValueError(f"{path} has no unigram '{word}'")
    if UNKNOWN in words:
        return NGramModel(words, orders)
    # A new word changes every key: the contexts' indexes are multiplied by the number of words.
    num_words = len(words)
    wider = [
        replace(order, keys=order.keys + order.keys // num_words * (n > 0))
        for n, order in enumerate(orders)
    ]
    unigrams = Order(
        np.arange(num_words + 1),
        np.append(orders[0].log_probs, np.float32(_MISSING_UNKNOWN)),
        np.append(orders[0].log_backoffs, np.float32(0)),
    )
    return NGramModel((*words, UNKNOWN), (unigrams, *wider[1:]))
