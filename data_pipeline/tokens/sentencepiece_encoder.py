"""Encoder for SentencePiece models, with identical ids."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import sentencepiece

from data_pipeline.tokens.encoder import Encoded, TokenizerIdentity, Tokens
from data_pipeline.tokens.exact_cuts import can_be_cut
from data_pipeline.tokens.unit_encoder import UnitEncoder


def load_processor(tokenizer_dir: Path) -> sentencepiece.SentencePieceProcessor:
    """Load a tokenizer folder's SentencePiece model; ValueError where there is none."""
    model_file = tokenizer_dir / "tokenizer.model"
    if not model_file.is_file():
        raise ValueError(f"{tokenizer_dir} is not a tokenizer folder: it has no tokenizer.model")
    return processor_of(model_file.read_bytes(), str(model_file))


def processor_of(model: bytes, name: str) -> sentencepiece.SentencePieceProcessor:
    """Load a model from bytes; ValueError, with the file's `name`, if they are not a model."""
    try:
        return sentencepiece.SentencePieceProcessor(model_proto=model)
    except RuntimeError as error:
        raise ValueError(
            f"{name} is not a SentencePiece model (tiktoken's files have the same name; a Hugging "
            "Face folder with tokenizer.json is read without them)"
        ) from error


class SentencePieceEncoder:
    """A tokenizer folder's SentencePiece model. Special tokens are not parsed: `<s>` is characters.

    Ids of text units are cached, in bounded memory, where the model supports it (`unit_encoder`).
    """

    def __init__(self, tokenizer_dir: Path) -> None:
        self._processor = load_processor(tokenizer_dir)
        self.identity = TokenizerIdentity(
            kind="sentencepiece",
            sha256=hashlib.sha256((tokenizer_dir / "tokenizer.model").read_bytes()).hexdigest(),
            vocab_size=self._processor.vocab_size(),
            bos_token_id=self._processor.bos_id(),
            eos_token_id=self._processor.eos_id(),
        )
        size = self.identity.vocab_size
        self._is_byte = np.array([self._processor.is_byte(i) for i in range(size)], np.bool_)
        self._is_byte[self._processor.piece_to_id("<0x0A>")] = False
        self._units = (
            UnitEncoder(self._processor, self.identity.dtype)
            if can_be_cut(self._processor)
            else None
        )

    def encode(self, texts: Sequence[str]) -> Encoded:
        if self._units is not None:
            tokens, offsets = self._units.encode(texts)
        else:
            documents = self._processor.encode(
                list(texts), out_type=int, add_bos=True, add_eos=True, num_threads=1
            )
            offsets = np.cumsum([0, *map(len, documents)])
            ids = itertools.chain.from_iterable(documents)
            tokens = np.fromiter(ids, self.identity.dtype, offsets[-1])
        return Encoded(tokens, offsets, self.num_byte_tokens(tokens))

    def num_byte_tokens(self, tokens: Tokens) -> int:
        """As `Encoded.num_byte_tokens`, for given tokens."""
        return int(np.count_nonzero(self._is_byte[tokens]))
