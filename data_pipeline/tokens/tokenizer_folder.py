"""A tokenizer folder: `tokenizer.model` (SentencePiece), `tokenizer.json` and
`tokenizer_config.json` (Hugging Face), `manifest.json`. Both forms give the same ids for every
string (`huggingface_tokenizer` says how).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sentencepiece

from data_pipeline.files.atomic import atomic_directory, check_replaceable
from data_pipeline.tokens.huggingface_tokenizer import to_huggingface


def export_tokenizer(model_file: Path, out: Path) -> None:
    """Write the tokenizer folder `out` for any SentencePiece BPE model of LLaMA's kind.

    ValueError where the model cannot be expressed exactly: not BPE, no byte fallback, a
    normaliser other than identity with dummy prefix, or scores whose ties Hugging Face's
    tokenizers would resolve differently.
    """
    check_replaceable(out, "tokenizer.model", "a tokenizer")
    with atomic_directory(out) as folder:
        write_tokenizer(model_file.read_bytes(), folder, {})


def write_tokenizer(model: bytes, folder: Path, origin: Mapping[str, Any]) -> None:
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
