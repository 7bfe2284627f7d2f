"""Exact, cached, vectorized SentencePiece encoding: identical ids, several times faster.

Texts are split into units, about words, wherever a split cannot change the ids (`exact_cuts`). Ids
of units are cached, and most units are cache hits. Work per byte and per unit is vectorized in
numpy and Arrow; Python handles each distinct unit of a window, SentencePiece each cache miss.
"""

from __future__ import annotations

import io
from array import array
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import sentencepiece

from data_pipeline.tokens.exact_cuts import Cuts, LongCuts, literal_processor
from data_pipeline.tokens.huggingface_tokenizer import BLANK

_WINDOW_BYTES = 1 << 22
"""Text that is processed at once."""
_LONG_UNIT_BYTES = 1 << 16
"""Larger units are split by `LongCuts`: SentencePiece takes 50 bytes of memory per byte."""
_CACHE_BYTES = 1 << 26
_BYTES_PER_UNIT = 400
"""Overhead of a cache entry, in Python objects and tables."""

Offsets = npt.NDArray[np.int64]
Tokens = npt.NDArray[np.unsignedinteger[Any]]


class UnitEncoder:
    """Encodes with a SentencePiece model for which `can_be_cut` holds."""

    def __init__(
        self,
        processor: sentencepiece.SentencePieceProcessor,
        dtype: Literal["uint16", "uint32"],
    ) -> None:
        # The dummy prefix is written explicitly, so that the first unit is like any other.
        self._processor = literal_processor(processor)
        self._cuts, self._long_cuts = Cuts(processor), LongCuts(self._processor)
        self._dtype = dtype
        self._clear_cache()

    def _clear_cache(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self._num_bytes = 0
        # The tokens of unit `number` are those from `ends[number]` to `ends[number + 1]`.
        self._tokens = array("H" if self._dtype == "uint16" else "I")
        self._ends = array("i", [0])

    def encode(self, texts: Sequence[str]) -> tuple[Tokens, Offsets]:
        """BOS, tokens, EOS of each text, concatenated; offsets of the texts, and the length."""
        joined, text_starts = _join(texts)
        between = np.array([self._processor.eos_id(), self._processor.bos_id()], self._dtype)
        starts = np.zeros_like(text_starts)
        written = io.BytesIO()  # grows in place
        done = 0
        for bounds in self._windows(joined, text_starts):
            tokens, offsets = self._encode_window(joined[bounds[0] : bounds[-1]], bounds)
            first, last = np.searchsorted(text_starts, bounds[[0, -1]])
            begins = offsets[np.searchsorted(bounds, text_starts[first:last])]
            starts[first:last] = done + begins
            if last > first:
                tokens = np.insert(tokens, np.repeat(begins, 2), np.tile(between, last - first))
            written.write(tokens.data)
            done += int(offsets[-1])
        # Trailing empty texts, and the EOS of the last one; the leading EOS is cut off.
        first = int(np.searchsorted(text_starts, len(joined)))
        starts[first:] = done
        written.write(np.append(np.tile(between, len(texts) - first), between[:1]).data)
        whole = np.frombuffer(written.getbuffer(), self._dtype)[1:]
        return whole, starts + 2 * np.arange(len(starts))

    def _windows(self, joined: bytes, text_starts: Offsets) -> Iterator[Offsets]:
        """Unit boundaries of each window."""
        for bounds in self._stretches(joined, text_starts):
            for unit in np.flatnonzero(np.diff(bounds) > _LONG_UNIT_BYTES):
                text = joined[bounds[unit] : bounds[unit + 1]]
                places = self._long_cuts.places(text, _LONG_UNIT_BYTES)
                bounds = np.append(bounds, bounds[unit] + np.array(places, np.int64))
            bounds.sort()
            first = 0
            while first < len(bounds) - 1:
                last = int(np.searchsorted(bounds, bounds[first] + 2 * _WINDOW_BYTES, "right")) - 1
                last = max(last, first + 1)
                yield bounds[first : last + 1]
                first = last

    def _stretches(self, joined: bytes, text_starts: Offsets) -> Iterator[Offsets]:
        """As `_windows`, by rule 1 alone: spans of about `_WINDOW_BYTES`, or of one longer unit.

        Every text starts a unit.
        """
        seen = 0
        found = [np.zeros(1, np.int64)]
        while seen < len(joined):
            # Blocks overlap by one byte: a split point is between two bytes.
            begin, seen = max(seen - 1, 0), min(seen + _WINDOW_BYTES, len(joined))
            is_place = self._cuts.between(joined[begin:seen])
            first, last = np.searchsorted(text_starts, [begin + 1, seen])
            is_place[text_starts[first:last] - begin - 1] = True
            found.append(np.flatnonzero(is_place) + begin + 1)
            bounds = np.concatenate(found)
            if seen == len(joined):
                yield np.append(bounds, seen)
            elif len(bounds) > 1:
                yield bounds
                found = [bounds[-1:]]

    def _encode_window(self, text: bytes, bounds: Offsets) -> tuple[Tokens, npt.NDArray[np.int32]]:
        """Tokens of the units of `text`, and each unit's offset in them, with the total length."""
        offsets = (bounds - bounds[0]).astype(np.int32)
        units = pa.Array.from_buffers(
            pa.binary(), len(bounds) - 1, [None, pa.py_buffer(offsets), pa.py_buffer(text)]
        ).dictionary_encode()
        numbers = self._number(units.dictionary.to_pylist())[units.indices.to_numpy()]
        known = pa.ListArray.from_arrays(
            pa.array(np.frombuffer(self._ends, np.int32)),
            pa.array(np.frombuffer(self._tokens, self._dtype)),
        )
        taken = known.take(pa.array(numbers))
        return taken.values.to_numpy(), taken.offsets.to_numpy()

    def _number(self, units: Sequence[bytes]) -> npt.NDArray[np.int64]:
        """Cache indices of distinct units; cache misses are encoded."""
        if self._num_bytes > _CACHE_BYTES:
            self._clear_cache()
        found = list(map(self._numbers.get, units))
        new = [unit for unit, number in zip(units, found, strict=True) if number is None]
        texts = [unit.decode() for unit in new]
        first = len(self._ends) - 1
        for ids in self._processor.encode(texts, out_type=int, num_threads=1):
            self._tokens.extend(ids)
            self._ends.append(len(self._tokens))
        new_numbers = range(first, first + len(new))
        self._numbers.update(zip(new, new_numbers, strict=True))
        self._num_bytes += sum(map(len, new)) + len(new) * _BYTES_PER_UNIT
        numbers = np.array([-1 if number is None else number for number in found], np.int64)
        numbers[numbers < 0] = new_numbers
        return numbers


def _join(texts: Sequence[str]) -> tuple[bytes, Offsets]:
    """Texts in UTF-8 with SentencePiece's normalization, concatenated; offsets of the texts, and
    the length.

    SentencePiece prepends a blank (dummy prefix) to every text except the empty one, and does not
    distinguish a blank from U+2581.
    """
    joined = io.BytesIO()
    starts = np.empty(len(texts) + 1, np.int64)
    for index, text in enumerate(texts):
        starts[index] = joined.tell()
        if text:
            joined.write(b" ")
        for begin in range(0, len(text), _WINDOW_BYTES):  # so that a long text is not copied twice
            joined.write(text[begin : begin + _WINDOW_BYTES].replace(BLANK, " ").encode())
    starts[-1] = joined.tell()
    return joined.getvalue(), starts
