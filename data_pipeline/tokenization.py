"""Documents -> SentencePiece tokenizer.

A tokenizer is a folder: `tokenizer.model` (SentencePiece), `tokenizer.json` and
`tokenizer_config.json` (Hugging Face), `manifest.json`. Both forms give the same ids for every
string (`huggingface_tokenizer` says how).
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import tokenizers
import xxhash
from datasets import Dataset
from datasets.utils import tqdm

from data_pipeline.huggingface_tokenizer import to_huggingface
from data_pipeline.publish import atomic_directory, check_replaceable

# SentencePiece passes over a line of more bytes than its max_sentence_length, and over a line
# with its reserved character U+2585. Lines are cut there instead; UTF-8 needs at most 4 bytes
# per character.
_LINE_CHARACTERS = 16_384
_LINE_BREAK = re.compile("[\n\u2585]")

_BATCH_DOCUMENTS = 64


@dataclass(frozen=True)
class TokenizerConfig:
    """How the tokenizer is trained. All else is as in LLaMA's published tokenizer.model."""

    vocab_size: int = 32_000
    sample_bytes: int = 1_000_000_000
    """Text to train on at most, in UTF-8 bytes; training takes about 6 bytes of memory for each."""
    seed: int = 0
    """Chooses the documents where there is more text than sample_bytes."""

    def __post_init__(self) -> None:
        for name in ("vocab_size", "sample_bytes"):
            value = getattr(self, name)
            if value <= 0:
                raise ValueError(f"tokenizer.{name} ({value}) must be positive")
        if self.seed < 0:
            raise ValueError(f"tokenizer.seed ({self.seed}) must not be negative")


# --- training ---------------------------------------------------------------------------------


def train_tokenizer(texts: Dataset, out: Path, config: TokenizerConfig) -> None:
    """Train on `texts` (columns id, text) and write the tokenizer folder `out`.

    Equal text and config give equal bytes. A folder that was made from the same text and config
    is kept. ValueError where the text is empty or does not support `config.vocab_size`.
    """
    check_replaceable(out, "tokenizer.model", "a tokenizer")
    settings = dataclasses.asdict(config)
    versions = (sentencepiece.__version__, tokenizers.__version__)
    about = json.dumps([*versions, settings, _digest(texts)], sort_keys=True)
    fingerprint = xxhash.xxh3_128_hexdigest(about.encode())
    if _is_tokenizer_current(out, fingerprint):
        return
    model = _train_sentencepiece(_sample_lines(texts, config), config)
    with atomic_directory(out) as folder:
        _write_tokenizer(model, folder, {"config": settings, "fingerprint": fingerprint})


def _digest(texts: Dataset) -> str:
    """Of the texts, by their ids."""
    digest = xxhash.xxh3_128()
    for table in texts.select_columns(["id"]).with_format("arrow").iter(batch_size=10_000):
        digest.update("".join(table.column("id").to_pylist()).encode())
    return digest.hexdigest()


def _is_tokenizer_current(folder: Path, fingerprint: str) -> bool:
    manifest_file, model_file = folder / "manifest.json", folder / "tokenizer.model"
    if not (manifest_file.is_file() and model_file.is_file()):
        return False
    manifest = json.loads(manifest_file.read_text(encoding="utf-8"))
    sha256 = hashlib.sha256(model_file.read_bytes()).hexdigest()
    return bool(manifest.get("fingerprint") == fingerprint and manifest["sha256"] == sha256)


def _sample_lines(texts: Dataset, config: TokenizerConfig) -> Iterator[str]:
    """Lines of documents in seeded order, until `config.sample_bytes` are given out."""
    order = np.random.default_rng(config.seed).permutation(len(texts))
    column = texts.select_columns(["text"])
    left = config.sample_bytes
    with tqdm(unit="B", unit_scale=True, desc="Reading text for the tokenizer") as bar:
        for begin in range(0, len(order), _BATCH_DOCUMENTS):
            for text in column[order[begin : begin + _BATCH_DOCUMENTS]]["text"]:
                for line in _lines(text):
                    size = len(line.encode())
                    if size > left:
                        return
                    left -= size
                    bar.update(size)
                    yield line


def _lines(text: str) -> Iterator[str]:
    for line in _LINE_BREAK.split(text):
        for begin in range(0, len(line), _LINE_CHARACTERS):
            yield line[begin : begin + _LINE_CHARACTERS]


def _train_sentencepiece(lines: Iterator[str], config: TokenizerConfig) -> bytes:
    """The bytes of tokenizer.model.

    The settings are those stored in LLaMA's published tokenizer.model; the paper (section 2.1)
    names byte-pair encoding, split digits and byte fallback.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines,
            model_writer=model,
            model_type="bpe",
            vocab_size=config.vocab_size,
            # BPE training gains nothing from threads, and the model's bytes tell their number.
            num_threads=1,
            character_coverage=0.99995,
            split_digits=True,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=True,
            allow_whitespace_only_pieces=True,
            max_sentence_length=4 * _LINE_CHARACTERS,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=-1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _training_error(str(error), config.vocab_size) from error
    return model.getvalue()


def _training_error(message: str, vocab_size: int) -> Exception:
    """SentencePiece's message in terms of the user's settings."""
    if largest := re.search(r"too high.* <= (\d+)", message):
        return ValueError(
            f"tokenizer.vocab_size ({vocab_size}) is larger than the text supports "
            f"(at most {largest[1]}); set --tokenizer.vocab-size {largest[1]} or less, "
            "or give more text"
        )
    if smallest := re.search(r"smaller than required_chars. \d+ vs (\d+)", message):
        return ValueError(
            f"tokenizer.vocab_size ({vocab_size}) is smaller than the bytes and characters of the "
            f"text ({smallest[1]}); set --tokenizer.vocab-size to more than {smallest[1]}"
        )
    if "sentences_.empty()" in message:
        return ValueError("there is no text to train a tokenizer on: every document is empty")
    return RuntimeError(f"SentencePiece could not train a tokenizer: {message}")


# --- Hugging Face form ------------------------------------------------------------------------


def export_tokenizer(model_file: Path, out: Path) -> None:
    """Write the tokenizer folder `out` for any SentencePiece BPE model of LLaMA's kind.

    ValueError where the model cannot be expressed exactly: not BPE, no byte fallback, a
    normaliser other than identity with dummy prefix, or scores whose ties Hugging Face's
    tokenizers would resolve differently.
    """
    check_replaceable(out, "tokenizer.model", "a tokenizer")
    with atomic_directory(out) as folder:
        _write_tokenizer(model_file.read_bytes(), folder, {})


def _write_tokenizer(model: bytes, folder: Path, origin: Mapping[str, Any]) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    (folder / "tokenizer.model").write_bytes(model)
    to_huggingface(processor).save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": processor.id_to_piece(processor.unk_id()),
        "bos_token": processor.id_to_piece(processor.bos_id()),
        "eos_token": processor.id_to_piece(processor.eos_id()),
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    manifest = {
        "sha256": hashlib.sha256(model).hexdigest(),
        "vocab_size": processor.vocab_size(),
        **origin,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2), encoding="utf-8")
