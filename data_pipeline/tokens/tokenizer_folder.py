"""Tokenizer folders: SentencePiece or Hugging Face, in a form that `AutoTokenizer` loads.

- SentencePiece: `tokenizer.model`, and the same tokenizer as `tokenizer.json` (both give the same
  ids for every string; see `huggingface_tokenizer`);
- Hugging Face: `tokenizer.json` alone.

`manifest.json` records the kind, and BOS and EOS.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_pipeline.files.atomic import atomic_directory, check_replaceable
from data_pipeline.tokens.encoder import Encoder
from data_pipeline.tokens.huggingface_encoder import HuggingFaceEncoder, load_tokenizer
from data_pipeline.tokens.huggingface_tokenizer import to_huggingface
from data_pipeline.tokens.sentencepiece_encoder import SentencePieceEncoder, processor_of
from data_pipeline.tokens.special_tokens import (
    SpecialToken,
    SpecialTokens,
    read_object,
    special_tokens,
)

COPIED_FILES = (
    *("tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "chat_template.jinja", "manifest.json"),
)
"""Files that are copied from a tokenizer folder, which may also contain a model's weights."""
NOT_NEEDED = SpecialTokens(SpecialToken(0, "", "not needed"), SpecialToken(0, "", "not needed"))
"""Placeholder for callers that ignore BOS and EOS."""


def is_sentencepiece(folder: Path) -> bool:
    """Whether a tokenizer folder's ids are defined by a SentencePiece tokenizer.model."""
    return (folder / "tokenizer.model").is_file()


def tokenizer_folder(
    path: Path, out: Path, *, bos_token: str | None = None, eos_token: str | None = None
) -> Path:
    """The tokenizer folder of a user's tokenizer: `path` itself, where it has a SentencePiece
    model; else `out`, converted from a model file or a Hugging Face folder.

    ValueError where `path` is not a tokenizer, or BOS and EOS are undefined.
    """
    if path.name == "tokenizer.json":
        path = path.parent
    if path.is_dir() and not is_sentencepiece(path):
        import_huggingface(path, out, bos_token=bos_token, eos_token=eos_token)
        return out
    if bos_token is not None or eos_token is not None:
        raise ValueError(
            f"--tokenizer.bos-token and --tokenizer.eos-token are for a folder with tokenizer.json "
            f"alone; the SentencePiece model of {path} defines its own"
        )
    if not path.is_dir():
        export_tokenizer(path, out)
        return out
    return path


def load_encoder(folder: Path, special: SpecialTokens | None = None) -> Encoder:
    """The encoder of a tokenizer folder; ValueError where there is none.

    `special`: BOS and EOS of a Hugging Face tokenizer; by default those that its folder defines.
    """
    if is_sentencepiece(folder):
        return SentencePieceEncoder(folder)
    if not (folder / "tokenizer.json").is_file():
        raise ValueError(
            f"{folder} is not a tokenizer folder: it has neither tokenizer.model nor tokenizer.json"
        )
    if special is None:
        special = special_tokens(folder, load_tokenizer(folder))
    return HuggingFaceEncoder(folder, special)


def copy_tokenizer(folder: Path, to: Path) -> None:
    """Copy the tokenizer's own files into the new folder `to`."""
    to.mkdir()
    for name in COPIED_FILES:
        if (folder / name).is_file():
            shutil.copy2(folder / name, to / name)


# -- SentencePiece --------------------------------------------------------------------------------


def export_tokenizer(model_file: Path, out: Path) -> None:
    """Write the tokenizer folder `out` for any SentencePiece BPE model of LLaMA's kind.

    An up-to-date folder, of the same model, is kept. ValueError where the model has no exact
    equivalent: not BPE, no byte fallback, a normalizer other than identity with dummy prefix, or
    scores whose ties Hugging Face's tokenizers would break differently.
    """
    if not model_file.is_file():
        raise ValueError(f"there is no tokenizer {model_file}")
    model = model_file.read_bytes()
    own = out / "tokenizer.model"
    if own.is_file() and (out / "manifest.json").is_file() and own.read_bytes() == model:
        return
    check_replaceable(out, "tokenizer.json", "a tokenizer")
    with atomic_directory(out) as folder:
        write_tokenizer(model, folder, {}, name=str(model_file))


def write_tokenizer(
    model: bytes, folder: Path, origin: Mapping[str, Any], *, name: str = "tokenizer.model"
) -> None:
    """Write a SentencePiece model in both formats; ValueError, with its `name`, if invalid."""
    processor = processor_of(model, name)
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
    _write_json(folder / "tokenizer_config.json", settings)
    manifest = {
        "sha256": hashlib.sha256(model).hexdigest(),
        "vocab_size": processor.vocab_size(),
        **origin,
    }
    _write_json(folder / "manifest.json", manifest)


# -- Hugging Face ---------------------------------------------------------------------------------


def import_huggingface(
    folder: Path, out: Path, *, bos_token: str | None = None, eos_token: str | None = None
) -> SpecialTokens:
    """Write the tokenizer folder `out` for a Hugging Face folder with tokenizer.json.

    tokenizer.json is copied byte for byte; `tokenizer_config.json` names the class that loads it
    unchanged, and BOS and EOS. ValueError where the folder does not define these.
    """
    found = special_tokens(folder, load_tokenizer(folder), bos_token=bos_token, eos_token=eos_token)
    identity = HuggingFaceEncoder(folder, found).identity
    settings = {
        "clean_up_tokenization_spaces": False,
        **read_object(folder / "special_tokens_map.json"),
        **read_object(folder / "tokenizer_config.json"),
        # Other classes build a tokenizer of their own from its vocabulary.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": found.bos.token,
        "eos_token": found.eos.token,
    }
    settings.pop("auto_map", None)  # the model's remote code, which would be run instead
    manifest = {
        "kind": identity.kind,
        "sha256": identity.sha256,
        "vocab_size": identity.vocab_size,
        "bos_token": found.bos.token,
        "bos_token_id": found.bos.id,
        "bos_token_from": found.bos.rule,
        "eos_token": found.eos.token,
        "eos_token_id": found.eos.id,
        "eos_token_from": found.eos.rule,
    }
    if read_object(out / "manifest.json") == manifest and (out / "tokenizer.json").is_file():
        return found
    check_replaceable(out, "tokenizer.json", "a tokenizer")
    with atomic_directory(out) as new:
        for name in ("tokenizer.json", "chat_template.jinja"):
            if (folder / name).is_file():
                shutil.copy2(folder / name, new / name)
        _write_json(new / "tokenizer_config.json", settings)
        _write_json(new / "manifest.json", manifest)
    return found


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
