"""Texts -> token ids, exactly as SentencePiece has them, and faster.

SentencePiece's BPE joins adjacent symbols of a text as long as the union is a piece of the
vocabulary. Where no piece holds the two characters at a border next to each other, nothing is ever
joined across it, so that the text's two sides are encoded independently. In a model of LLaMA's kind
such borders are before a blank that follows another character, on both sides of a line break and of
a digit, and between letters and signs of ASCII (it was trained with digits split, and with scripts
kept apart). Text is cut there into chunks, and the ids of a chunk are looked up: the same few
thousand make up most of a text. `Encoder` asks the model whether it is of this kind, and encodes
with SentencePiece itself if it is not.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import sentencepiece

from data_pipeline.huggingface_tokenizer import BLANK

# SentencePiece takes a space and its own sign for it for the same.
_BLANKS = f"[ {BLANK}]*"
_LETTERS, _SIGNS, _OTHER = "A-Za-z", "\x00-\x09\x0b-\x1f!-/:-@[-`{-\x7f", "\x80-\U0010ffff"
_CHUNK = re.compile(
    # Letters or signs of ASCII, if what follows is no more of them and not beyond ASCII.
    f"{_BLANKS}[{_LETTERS}]+(?![{_LETTERS}{_OTHER}])|{_BLANKS}[{_SIGNS}]+(?![{_SIGNS}{_OTHER}])"
    f"|{_BLANKS}[^ {BLANK}\n0-9]+|[ {BLANK}]+|[\n0-9]"
)
_LETTER_BESIDE_SIGN = re.compile(f"[{_LETTERS}][{_SIGNS}]|[{_SIGNS}][{_LETTERS}]")
_ISOLATED = frozenset("\n0123456789")
_MAX_CHUNKS = 1 << 20
"""In the table: about 150 bytes each."""
_MAX_CHUNK_CHARACTERS = 64
"""Longer ones hardly come twice."""
_SLICE_CHARACTERS = 1 << 18


class Encoded(NamedTuple):
    """The ids of several documents, one after another."""

    tokens: npt.NDArray[np.unsignedinteger[Any]]
    """BOS, the text's tokens, EOS of each document."""
    offsets: npt.NDArray[np.int64]
    """Where each document begins in `tokens`, and the end of all."""
    num_byte_tokens: int
    """Tokens that stand for single bytes of characters that the vocabulary does not have, but for
    line breaks, which LLaMA's has no other token for."""


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

    Memory is bounded, about 200 MB, but for a text of which a stretch of many megabytes has no
    space, digit or line break: SentencePiece gets that whole, and takes some 100 bytes for each
    character.
    """

    def __init__(self, tokenizer_dir: Path) -> None:
        processor = load_processor(tokenizer_dir)
        size = processor.vocab_size()
        self.dtype = token_dtype(size)
        self._is_byte = np.array([processor.is_byte(i) for i in range(size)], np.bool_)
        self._is_byte[processor.piece_to_id("<0x0A>")] = False
        self._processor = processor
        self._begin, self._end = (
            self._bytes([processor.bos_id()]),
            self._bytes([processor.eos_id()]),
        )
        self._chunks = _Chunks(processor, self.dtype) if has_borders(processor) else None

    def encode(self, texts: Sequence[str]) -> Encoded:
        parts: list[bytes] = []
        offsets = [0]
        for text in texts:
            body = self._body(text)
            parts += [self._begin, body, self._end]
            offsets.append(offsets[-1] + len(body) // np.dtype(self.dtype).itemsize + 2)
        tokens = np.frombuffer(b"".join(parts), self.dtype)
        return Encoded(tokens, np.array(offsets), self.num_byte_tokens(tokens))

    def num_byte_tokens(self, tokens: npt.NDArray[np.unsignedinteger[Any]]) -> int:
        """As `Encoded.num_byte_tokens`, of tokens that were made before."""
        return int(self._is_byte[tokens].sum())

    def num_text_bytes(self, tokens: npt.NDArray[np.unsignedinteger[Any]]) -> int:
        """UTF-8 bytes of the text that one document's tokens stand for, BOS and EOS aside.

        Exact but for the character U+2581, which SentencePiece takes for a blank: it counts as one
        byte.
        """
        return len(self._processor.decode(tokens[1:-1].tolist()).encode("utf-8"))

    def _body(self, text: str) -> bytes:
        if self._chunks is None:
            return self._bytes(self._processor.encode(text, num_threads=1))
        if not text:
            return b""
        # SentencePiece puts a blank in front of every text.
        return b"".join(map(self._chunks.of_slice, _slices(" " + text)))

    def _bytes(self, ids: Sequence[int]) -> bytes:
        return np.array(ids, self.dtype).tobytes()


def has_borders(processor: sentencepiece.SentencePieceProcessor) -> bool:
    """Whether no piece holds two characters that a border lies between, and the model changes no
    text but for a blank in front."""
    normalized = processor.normalize("  a \ufb01\t\n1")
    if normalized != f"{BLANK}{BLANK}{BLANK}a{BLANK}\ufb01\t\n1":
        return False
    for index in range(processor.vocab_size()):
        if processor.is_control(index) or processor.is_unknown(index) or processor.is_byte(index):
            continue
        piece = processor.id_to_piece(index)
        if len(piece) > 1 and not _ISOLATED.isdisjoint(piece):
            return False
        characters = piece.lstrip(BLANK)
        if BLANK in characters or _LETTER_BESIDE_SIGN.search(characters):
            return False
    return True


def _slices(text: str) -> Iterator[str]:
    """Consecutive pieces of a long text, cut at borders."""
    start = 0
    while len(text) - start > _SLICE_CHARACTERS:
        border = re.compile("[\n0-9]").search(text, start + _SLICE_CHARACTERS)
        blank = re.compile(f"(?<=[^ {BLANK}])[ {BLANK}]").search(text, start + _SLICE_CHARACTERS)
        found = [match.start() for match in (border, blank) if match is not None]
        if not found:
            break
        yield text[start : min(found)]
        start = min(found)
    yield text[start:]


class _Chunks:
    """A table of the ids of chunks, as bytes."""

    def __init__(
        self, processor: sentencepiece.SentencePieceProcessor, dtype: Literal["uint16", "uint32"]
    ) -> None:
        self._processor = processor
        self._typecode = np.dtype(dtype).char
        # What SentencePiece puts in front of a text, and a line break behind it, which keeps apart.
        self._front = processor.encode("\n", num_threads=1)
        self._ids: dict[str, bytes] = {}

    def of_slice(self, text: str) -> bytes:
        """The ids of a text that begins and ends at borders."""
        chunks = _CHUNK.findall(text)
        found = list(map(self._ids.get, chunks))
        if None in found:
            places = [place for place, ids in enumerate(found) if ids is None]
            new = self._encoded({chunks[place] for place in places})
            for place in places:
                found[place] = new[chunks[place]]
        return b"".join(cast("list[bytes]", found))

    def _encoded(self, chunks: Collection[str]) -> dict[str, bytes]:
        """The ids of chunks that are not in the table; those that may come again are put there."""
        if len(self._ids) + len(chunks) > _MAX_CHUNKS:
            self._ids.clear()
        # One call for all of them takes half the time of a call for each.
        lists = self._processor.encode(["\n" + chunk for chunk in chunks], num_threads=1)
        skip = len(self._front)
        found = {
            chunk: array(self._typecode, ids[skip:]).tobytes()
            for chunk, ids in zip(chunks, lists, strict=True)
        }
        short = {chunk: ids for chunk, ids in found.items() if len(chunk) <= _MAX_CHUNK_CHARACTERS}
        self._ids.update(short)
        return found
