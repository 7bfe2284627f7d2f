"""Contenders of the tokenization benchmark behind one interface: ours, SentencePiece, tokenizers,
and kitoken and tokie where they are installed (benchmarks/requirements.txt)."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from data_pipeline.tokens.encoder import token_dtype
from data_pipeline.tokens.huggingface_tokenizer import to_huggingface
from data_pipeline.tokens.sentencepiece_encoder import SentencePieceEncoder, load_processor

_BATCH = 256
"""Texts per batch, as in the token store."""
Ids = npt.NDArray[Any]


class Contender(Protocol):
    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """BOS, tokens, EOS of each text."""
        ...


class Ours:
    def __init__(self, tokenizer: Path) -> None:
        self._encoder = SentencePieceEncoder(tokenizer)

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        encoded = self._encoder.encode(texts)
        return np.split(encoded.tokens, encoded.offsets[1:-1])


class SentencePiece:
    """Its own batches, in the output type that converts to an array fastest."""

    def __init__(self, tokenizer: Path) -> None:
        self._processor = load_processor(tokenizer)
        self._dtype = token_dtype(self._processor.vocab_size())

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        found = self._processor.encode(
            list(texts), out_type="numpy", add_bos=True, add_eos=True, num_threads=1
        )
        return [ids.astype(self._dtype) for ids in found]


class Tokenizers:
    """Hugging Face's tokenizers, with the same ids."""

    def __init__(self, tokenizer: Path) -> None:
        processor = load_processor(tokenizer)
        self._tokenizer = to_huggingface(processor)
        self._tokenizer.encode_special_tokens = True  # `<s>` in a text is text
        self._end = [processor.eos_id()]
        self._dtype = token_dtype(processor.vocab_size())

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        found = self._tokenizer.encode_batch_fast(texts)
        return [np.array(encoding.ids + self._end, self._dtype) for encoding in found]


class WordTable:
    """Words from a dictionary, the others from SentencePiece: exact where no token of the
    vocabulary spans a word and a blank."""

    _WORD = re.compile(" +[^ ]*|[^ ]+")

    def __init__(self, tokenizer: Path) -> None:
        self._processor = load_processor(tokenizer)
        self._dtype = token_dtype(self._processor.vocab_size())
        self._ids: dict[str, list[int]] = {" ": [self._processor.piece_to_id("\u2581")]}

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        bos, eos = self._processor.bos_id(), self._processor.eos_id()
        result = []
        for text in texts:
            ids = [bos]
            for word in self._WORD.findall(" " + text) if text else ():
                known = self._ids.get(word)
                if known is None:
                    # SentencePiece adds the first blank back (dummy prefix).
                    known = self._ids[word] = self._processor.encode(word[1:], num_threads=1)
                ids += known
            ids.append(eos)
            result.append(np.array(ids, self._dtype))
        return result


class Kitoken:
    """Reads the SentencePiece model itself; it adds no BOS and EOS."""

    def __init__(self, tokenizer: Path) -> None:
        processor = load_processor(tokenizer)
        module = importlib.import_module("kitoken")
        self._tokenizer = module.Kitoken.from_sentencepiece_file(str(tokenizer / "tokenizer.model"))
        self._ends = processor.bos_id(), processor.eos_id()
        self._dtype = token_dtype(processor.vocab_size())

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        bos, eos = self._ends
        # One at a time: batches may take all cores, and what is compared is one.
        found = map(self._tokenizer.encode, texts)
        return [np.array([bos, *ids, eos], self._dtype) for ids in found]


class Tokie:
    """Reads tokenizer.json; `<s>` in a text is always BOS."""

    def __init__(self, tokenizer: Path) -> None:
        processor = load_processor(tokenizer)
        module = importlib.import_module("tokie")
        self._tokenizer = module.Tokenizer.from_json(str(tokenizer / "tokenizer.json"))
        self._ends = processor.bos_id(), processor.eos_id()
        self._dtype = token_dtype(processor.vocab_size())

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        bos, eos = self._ends
        found = (self._tokenizer.encode(text, False).ids for text in texts)
        return [np.array([bos, *ids, eos], self._dtype) for ids in found]


OURS = "ours"
_PEERS: dict[str, Callable[[Path], Contender]] = {"kitoken": Kitoken, "tokie": Tokie}
CONTENDERS: dict[str, Callable[[Path], Contender]] = {
    OURS: Ours,
    "SentencePiece": SentencePiece,
    "tokenizers": Tokenizers,
    "word table": WordTable,
    **{name: peer for name, peer in _PEERS.items() if importlib.util.find_spec(name) is not None},
}


def run(contender: Contender, texts: Sequence[str]) -> list[Ids]:
    batches = (texts[first : first + _BATCH] for first in range(0, len(texts), _BATCH))
    return list(itertools.chain.from_iterable(map(contender.encode, batches)))
