"""Texts -> token ids, exactly as SentencePiece has them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import sentencepiece

from data_pipeline.tokens.exact_cuts import can_be_cut
from data_pipeline.tokens.unit_encoder import UnitEncoder


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

    It keeps the ids of what it has met, in bounded memory, and is faster the more it has met.
    """

    def __init__(self, tokenizer_dir: Path) -> None:
        self._processor = load_processor(tokenizer_dir)
        size = self._processor.vocab_size()
        self.dtype = token_dtype(size)
        self._is_byte = np.array([self._processor.is_byte(i) for i in range(size)], np.bool_)
        self._is_byte[self._processor.piece_to_id("<0x0A>")] = False
        self._units = (
            UnitEncoder(self._processor, self.dtype) if can_be_cut(self._processor) else None
        )

    def encode(self, texts: Sequence[str]) -> Encoded:
        if self._units is not None:
            tokens, offsets = self._units.encode(texts)
        else:
            documents = self._processor.encode(
                list(texts), out_type=int, add_bos=True, add_eos=True, num_threads=1
            )
            offsets = np.cumsum([0, *map(len, documents)])
            tokens = np.fromiter(itertools.chain.from_iterable(documents), self.dtype, offsets[-1])
        return Encoded(tokens, offsets, self.num_byte_tokens(tokens))

    def num_byte_tokens(self, tokens: npt.NDArray[np.unsignedinteger[Any]]) -> int:
        """As `Encoded.num_byte_tokens`, of tokens that were made before."""
        return int(np.count_nonzero(self._is_byte[tokens]))

    def num_text_bytes(self, tokens: npt.NDArray[np.unsignedinteger[Any]]) -> int:
        """UTF-8 bytes of the text that one document's tokens stand for, BOS and EOS aside.

        Exact but for the character U+2581, which SentencePiece takes for a blank: it counts as one
        byte.
        """
        return len(self._processor.decode(tokens[1:-1].tolist()).encode("utf-8"))
