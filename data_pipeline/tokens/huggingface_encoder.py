"""Encoder for Hugging Face tokenizers (tokenizer.json), with identical ids."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from data_pipeline.tokens.encoder import Encoded, TokenizerIdentity, Tokens
from data_pipeline.tokens.overlapping_windows import DEFAULT_SIZES, Span, ids_by_windows
from data_pipeline.tokens.special_tokens import SpecialTokens

_BYTE_TOKEN = re.compile("<0x[0-9A-F]{2}>")


def load_tokenizer(folder: Path) -> tokenizers.Tokenizer:
    """Load a folder's tokenizer.json, without truncation, padding and parsing of special tokens;
    ValueError where there is none."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ValueError(f"{folder} is not a tokenizer folder: it has no tokenizer.json")
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more specific
        raise ValueError(f"{path} is not a valid Hugging Face tokenizer: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # special tokens in a text are characters
    return tokenizer


class HuggingFaceEncoder:
    """A tokenizer.json with its BOS and EOS tokens.

    Texts are encoded one at a time, in one thread: the executor's processes are the parallelism.
    Long texts are encoded in overlapping windows, in bounded memory.
    """

    def __init__(self, folder: Path, special: SpecialTokens) -> None:
        self._tokenizer = load_tokenizer(folder)
        content = (folder / "tokenizer.json").read_bytes()
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        self.identity = TokenizerIdentity(
            kind="huggingface",
            sha256=hashlib.sha256(content).hexdigest(),
            vocab_size=max(vocabulary.values()) + 1,
            bos_token_id=special.bos.id,
            eos_token_id=special.eos.id,
        )
        self._is_byte = np.zeros(self.identity.vocab_size, np.bool_)
        self._is_byte[list(_byte_tokens(json.loads(content), vocabulary))] = True

    def encode(self, texts: Sequence[str]) -> Encoded:
        dtype = self.identity.dtype
        bos = np.array([self.identity.bos_token_id], dtype)
        eos = np.array([self.identity.eos_token_id], dtype)
        pieces = []
        offsets = np.zeros(len(texts) + 1, np.int64)
        for index, text in enumerate(texts):
            parts = [bos, *(np.array(ids, dtype) for ids in self._ids(text)), eos]
            offsets[index + 1] = offsets[index] + sum(map(len, parts))
            pieces += parts
        tokens = np.concatenate(pieces) if pieces else np.zeros(0, dtype)
        return Encoded(tokens, offsets, self.num_byte_tokens(tokens))

    def _ids(self, text: str) -> Iterator[Sequence[int]]:
        if len(text) <= DEFAULT_SIZES.window:
            # The batch call skips token offsets; a batch of one starts no threads.
            yield self._tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids
        else:
            yield from ids_by_windows(text, self._encode_window)

    def _encode_window(self, text: str) -> tuple[list[int], list[Span]]:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def num_byte_tokens(self, tokens: Tokens) -> int:
        """As `Encoded.num_byte_tokens`, for given tokens."""
        return int(np.count_nonzero(self._is_byte[tokens]))


def _byte_tokens(settings: Mapping[str, Any], vocabulary: Mapping[str, int]) -> Iterator[int]:
    """Ids of byte tokens (single bytes of multi-byte characters) and of the unknown token."""
    model = settings["model"]
    if model.get("byte_fallback"):
        for token, index in vocabulary.items():
            if _BYTE_TOKEN.fullmatch(token) and token != "<0x0A>":
                yield index
    if _is_byte_level(settings.get("pre_tokenizer")) or _is_byte_level(settings.get("normalizer")):
        yield from (vocabulary[token] for token in _HIGH_BYTES if token in vocabulary)
    unknown = model.get("unk_token")
    if isinstance(unknown, str) and unknown in vocabulary:
        yield vocabulary[unknown]
    if isinstance(model.get("unk_id"), int):  # Unigram has its number
        yield model["unk_id"]


def _is_byte_level(step: Any) -> bool:
    if not isinstance(step, Mapping):
        return False
    inner = [*step.get("pretokenizers", ()), *step.get("normalizers", ())]
    return step.get("type") == "ByteLevel" or any(map(_is_byte_level, inner))


def _high_bytes() -> frozenset[str]:
    """Characters that stand for the bytes from 128 on in byte-level vocabularies: Latin-1 where
    that is a visible character, else the next free one from U+0100 on, in byte order."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in visible]
    return frozenset(
        chr(byte if byte in visible else 0x100 + hidden.index(byte)) for byte in range(128, 256)
    )


_HIGH_BYTES = _high_bytes()
