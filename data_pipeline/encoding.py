"""Texts -> token ids, exactly as SentencePiece has them, at several times its pace.

Texts are cut into units wherever that leaves their ids as they are (`exact_cuts`): about words.
Most have been met before, and their ids are kept. The work on each byte and each unit is done by
numpy and Arrow; Python sees each different unit of a window once, SentencePiece each new one.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import sentencepiece

from data_pipeline.exact_cuts import Cuts, Model, can_be_cut

_WINDOW_BYTES = 1 << 22
"""Of text that is cut and looked up at once."""
_CACHE_BYTES = 1 << 25
"""Of units whose ids are kept; with their entries in Python's tables some five times as much."""


class Encoded(NamedTuple):
    """The ids of several documents, one after another."""

    tokens: npt.NDArray[np.unsignedinteger[Any]]
    """BOS, the text's tokens, EOS of each document."""
    offsets: npt.NDArray[np.int64]
    """Where each document begins in `tokens`, and the end of all."""
    num_byte_tokens: int
    """Tokens that stand for single bytes of characters that the vocabulary does not have."""


def load_processor(tokenizer_dir: Path) -> sentencepiece.SentencePieceProcessor:
    """The SentencePiece half of a tokenizer folder; ValueError where there is none."""
    model_file = tokenizer_dir / "tokenizer.model"
    if not model_file.is_file():
        raise ValueError(f"{tokenizer_dir} is not a tokenizer folder: it has no tokenizer.model")
    return sentencepiece.SentencePieceProcessor(model_file=str(model_file))


def token_dtype(vocab_size: int) -> Literal["uint16", "uint32"]:
    """The smallest that holds every id."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


class Encoder:
    """A tokenizer folder's SentencePiece model. Text is only text: `<s>` in it is characters.

    Keeps the ids of units, in bounded memory: what encodes many texts should be one `Encoder`.
    """

    def __init__(self, tokenizer_dir: Path) -> None:
        self._processor = load_processor(tokenizer_dir)
        size = self._processor.vocab_size()
        self.dtype = token_dtype(size)
        self._is_byte = np.array([self._processor.is_byte(i) for i in range(size)], np.bool_)
        model = Model.FromString(self._processor.serialized_model_proto())
        self._units = _Units(model, self.dtype) if can_be_cut(model) else None

    def encode(self, texts: Sequence[str]) -> Encoded:
        if self._units is None:
            documents = self._processor.encode(list(texts), out_type=int, num_threads=1)
            starts = np.cumsum([0, *map(len, documents)])
            tokens = np.fromiter(itertools.chain.from_iterable(documents), self.dtype, starts[-1])
        else:
            tokens, starts = self._units.encode(texts)
        offsets = starts + 2 * np.arange(len(starts))
        firsts, lasts = offsets[:-1], offsets[1:] - 1
        whole = np.empty(offsets[-1], self.dtype)
        is_text = np.ones(len(whole), np.bool_)
        is_text[firsts] = is_text[lasts] = False
        whole[is_text] = tokens
        whole[firsts], whole[lasts] = self._processor.bos_id(), self._processor.eos_id()
        return Encoded(whole, offsets, int(np.count_nonzero(self._is_byte[tokens])))


class _Units:
    """Encodes texts unit by unit, with a model for which `can_be_cut`."""

    def __init__(self, model: Model, dtype: Literal["uint16", "uint32"]) -> None:
        self._cuts = Cuts(model)
        # The blank in front of a text is written out, so that no unit has a place of its own.
        literal = Model()
        literal.CopyFrom(model)
        literal.normalizer_spec.add_dummy_prefix = False
        self._processor = sentencepiece.SentencePieceProcessor(
            model_proto=literal.SerializeToString()
        )
        self._dtype = dtype
        self._forget()

    def _forget(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self._num_bytes = 0
        # Unit `number` has the tokens from `ends[number]` to `ends[number + 1]`.
        self._tokens = array("H" if self._dtype == "uint16" else "I")
        self._ends = array("i", [0])

    def encode(
        self, texts: Sequence[str]
    ) -> tuple[npt.NDArray[np.unsignedinteger[Any]], npt.NDArray[np.int64]]:
        """The texts' tokens, one after another, and where each text begins in them."""
        joined, text_starts = _join(texts)
        token_starts = np.zeros(len(text_starts), np.int64)
        parts = []
        done = 0
        for start, end, unit_starts in self._windows(joined, text_starts):
            tokens, offsets = self._encode_window(bytes(joined[start:end]), unit_starts - start)
            first, last = np.searchsorted(text_starts, [start, end])
            units = np.searchsorted(unit_starts, text_starts[first:last])
            token_starts[first:last] = done + offsets[units]
            parts.append(tokens)
            done += len(tokens)
        token_starts[np.searchsorted(text_starts, len(joined)) :] = done
        return np.concatenate([np.empty(0, self._dtype), *parts]), token_starts

    def _windows(
        self, joined: bytearray, text_starts: npt.NDArray[np.int64]
    ) -> Iterator[tuple[int, int, npt.NDArray[np.int64]]]:
        """(start, end, where units begin) of stretches that are whole units: about
        `_WINDOW_BYTES`, more only where a unit is longer."""
        start = seen = 0
        found = [np.zeros(1, np.int64)]
        while seen < len(joined):
            # One byte is seen twice: a place is between two.
            begin, seen = max(seen - 1, 0), min(seen + _WINDOW_BYTES, len(joined))
            is_place = self._cuts.between(bytes(joined[begin:seen]))
            first, last = np.searchsorted(text_starts, [begin + 1, seen])
            is_place[text_starts[first:last] - begin - 1] = True
            found.append(np.flatnonzero(is_place) + begin + 1)
            starts = np.concatenate(found)
            if seen == len(joined):
                yield start, seen, starts
            elif len(starts) > 1:
                yield start, int(starts[-1]), starts[:-1]
                start = int(starts[-1])
                found = [starts[-1:]]
            else:
                found = [starts]

    def _encode_window(
        self, text: bytes, starts: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.unsignedinteger[Any]], npt.NDArray[np.int32]]:
        """The tokens of units that begin at `starts`, and where each unit begins in them."""
        offsets = np.append(starts, len(text)).astype(np.int32)
        units = pa.Array.from_buffers(
            pa.binary(), len(starts), [None, pa.py_buffer(offsets), pa.py_buffer(text)]
        ).dictionary_encode()
        numbers = self._number(units.dictionary.to_pylist())[units.indices.to_numpy()]
        known = pa.ListArray.from_arrays(
            pa.array(np.frombuffer(self._ends, np.int32)),
            pa.array(np.frombuffer(self._tokens, self._dtype)),
        )
        taken = known.take(pa.array(numbers))
        return taken.values.to_numpy(), taken.offsets.to_numpy()

    def _number(self, units: Sequence[bytes]) -> npt.NDArray[np.int64]:
        """Where each of different units is kept; new ones are encoded."""
        if self._num_bytes > _CACHE_BYTES:
            self._forget()
        found = list(map(self._numbers.get, units))
        new = [unit for unit, number in zip(units, found, strict=True) if number is None]
        texts = [unit.decode() for unit in new]
        for ids in self._processor.encode(texts, out_type=int, num_threads=1):
            self._tokens.extend(ids)
            self._ends.append(len(self._tokens))
        first = len(self._numbers)
        self._numbers.update(zip(new, range(first, first + len(new)), strict=True))
        self._num_bytes += sum(map(len, new))
        numbers = iter(range(first, first + len(new)))
        return np.fromiter(
            (next(numbers) if number is None else number for number in found), np.int64, len(found)
        )


def _join(texts: Sequence[str]) -> tuple[bytearray, npt.NDArray[np.int64]]:
    """Texts in UTF-8, one after another, each with the blank that SentencePiece puts in front of
    every text but the empty one; where each begins, and the end of all."""
    joined = bytearray()
    starts = np.empty(len(texts) + 1, np.int64)
    for index, text in enumerate(texts):
        starts[index] = len(joined)
        if text:
            joined += b" "
        for begin in range(0, len(text), _WINDOW_BYTES):  # a long text is not there three times
            joined += text[begin : begin + _WINDOW_BYTES].encode()
    starts[-1] = len(joined)
    return joined, starts
