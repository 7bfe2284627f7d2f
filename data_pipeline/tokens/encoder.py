"""Encoder interface: texts -> token ids, for SentencePiece and Hugging Face tokenizers.

`sentencepiece_encoder` and `huggingface_encoder` implement it; `tokenizer_folder.load_encoder`
chooses. Special tokens are not parsed in texts: they are encoded as ordinary characters. (A Unigram
vocabulary of Hugging Face's that has such a string as a piece gives the piece, as transformers
does.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from data_pipeline.tokens.store import TokenizerKind

Dtype = Literal["uint16", "uint32"]
Tokens = npt.NDArray[np.unsignedinteger[Any]]


class Encoded(NamedTuple):
    """Token ids of several documents, concatenated."""

    tokens: Tokens
    """BOS, the text's tokens, EOS of each document."""
    offsets: npt.NDArray[np.int64]
    """Start of each document in `tokens`, and the total length."""
    num_byte_tokens: int
    """Byte-fallback tokens (characters that are not in the vocabulary), line breaks excluded; of a
    tokenizer without byte fallback, unknown tokens."""


@dataclass(frozen=True)
class TokenizerIdentity:
    """Identity of a tokenizer, as written into a store's manifest."""

    kind: TokenizerKind
    sha256: str
    """Of the file that defines the ids: tokenizer.model or tokenizer.json."""
    vocab_size: int
    """Largest id + 1."""
    bos_token_id: int
    eos_token_id: int

    @property
    def dtype(self) -> Dtype:
        return token_dtype(self.vocab_size)


def token_dtype(vocab_size: int) -> Dtype:
    """Smallest unsigned dtype for all ids."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


class Encoder(Protocol):
    """A loaded tokenizer, for use in one process."""

    @property
    def identity(self) -> TokenizerIdentity: ...

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Exactly the tokenizer's ids of each text, with BOS and EOS; of `identity.dtype`."""
        ...

    def num_byte_tokens(self, tokens: Tokens) -> int:
        """As `Encoded.num_byte_tokens`, for given tokens."""
        ...
