"""Texts -> token ids: what the token store needs of a tokenizer, whatever its kind.

`sentencepiece_encoder` and `huggingface_encoder` have it; `tokenizer_folder.load_encoder` chooses.
Text is only text: special tokens in it are characters. (A Unigram vocabulary of Hugging Face's
that has such a string as a piece gives the piece, as transformers does.)
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
    """The ids of several documents, one after another."""

    tokens: Tokens
    """BOS, the text's tokens, EOS of each document."""
    offsets: npt.NDArray[np.int64]
    """Where each document begins in `tokens`, and the end of all."""
    num_byte_tokens: int
    """Tokens that stand for single bytes of characters that the vocabulary does not have, but for
    line breaks; where it has no tokens for bytes, unknown tokens."""


@dataclass(frozen=True)
class TokenizerIdentity:
    """What decides about ids, and is written into a store's manifest."""

    kind: TokenizerKind
    sha256: str
    """Of tokenizer.model or tokenizer.json, whichever gives the ids."""
    vocab_size: int
    """The largest id and one."""
    bos_token_id: int
    eos_token_id: int

    @property
    def dtype(self) -> Dtype:
        return token_dtype(self.vocab_size)


def token_dtype(vocab_size: int) -> Dtype:
    """The smallest that holds every id."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


class Encoder(Protocol):
    """A tokenizer in one process."""

    @property
    def identity(self) -> TokenizerIdentity: ...

    def encode(self, texts: Sequence[str]) -> Encoded:
        """The tokenizer's own ids of each text, between BOS and EOS; of `identity.dtype`."""
        ...

    def num_byte_tokens(self, tokens: Tokens) -> int:
        """As `Encoded.num_byte_tokens`, of tokens that were made before."""
        ...
