"""Documents -> SentencePiece tokenizer -> token store.

A tokenizer is a folder: `tokenizer.model` (SentencePiece), `tokenizer.json` and
`tokenizer_config.json` (Hugging Face), `manifest.json`. Both forms give the same ids for every
string (`huggingface_tokenizer` says how).
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import itertools
import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import sentencepiece
import tokenizers
import xxhash
from datasets import Dataset, Features, List, Value
from datasets.utils import tqdm

from data_pipeline.huggingface_tokenizer import to_huggingface
from data_pipeline.publish import atomic_directory
from data_pipeline.shards import (
    FORMAT_VERSION,
    SPLITS,
    ShardFile,
    Split,
    SplitManifest,
    StoreManifest,
    TokenStore,
    describe_file,
)

# SentencePiece passes over a line of more bytes than its max_sentence_length, and over a line
# with its reserved character U+2585. Lines are cut there instead; UTF-8 needs at most 4 bytes
# per character.
_LINE_CHARACTERS = 16_384
_LINE_BREAK = re.compile("[\n\u2585]")

_ENCODE_BATCH_DOCUMENTS = 64
_SHARD_SIZE = "2GB"


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
    _check_replaceable(out, "tokenizer.model", "a tokenizer")
    settings = dataclasses.asdict(config)
    versions = (sentencepiece.__version__, tokenizers.__version__)
    fingerprint = _fingerprint([*versions, settings, _read_ids(texts).digest])
    if _is_tokenizer_current(out, fingerprint):
        return
    model = _train_sentencepiece(_sample_lines(texts, config), config)
    with atomic_directory(out) as folder:
        _write_tokenizer(model, folder, {"config": settings, "fingerprint": fingerprint})


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
        for begin in range(0, len(order), _ENCODE_BATCH_DOCUMENTS):
            for text in column[order[begin : begin + _ENCODE_BATCH_DOCUMENTS]]["text"]:
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
    _check_replaceable(out, "tokenizer.model", "a tokenizer")
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


# --- token store ------------------------------------------------------------------------------


def load_processor(tokenizer_dir: Path) -> sentencepiece.SentencePieceProcessor:
    """The SentencePiece half of a tokenizer folder; ValueError where there is none."""
    model_file = tokenizer_dir / "tokenizer.model"
    if not model_file.is_file():
        raise ValueError(f"{tokenizer_dir} is not a tokenizer folder: it has no tokenizer.model")
    return sentencepiece.SentencePieceProcessor(model_file=str(model_file))


def encode_documents(
    dataset: Dataset, tokenizer_dir: Path, num_proc: int, cache_file: Path
) -> Dataset:
    """Columns id, input_ids (BOS, tokens, EOS) and num_text_bytes (UTF-8) for each document.

    Text is only text: `<s>` in it is encoded as characters. The result is memory-mapped from
    `cache_file` (from several such names with num_proc > 1), which the caller removes after use.
    """
    processor = load_processor(tokenizer_dir)
    features = Features(
        {
            "id": Value("string"),
            "input_ids": List(Value(_token_dtype(processor.vocab_size()))),
            "num_text_bytes": Value("int64"),
        }
    )
    num_proc = min(num_proc, math.ceil(len(dataset) / _ENCODE_BATCH_DOCUMENTS))
    encoded = dataset.with_format("arrow").map(
        _encode_batch,
        fn_kwargs={"processor": processor},
        batched=True,
        batch_size=_ENCODE_BATCH_DOCUMENTS,
        remove_columns=dataset.column_names,
        features=features,
        # A pool of one costs a process start and saves nothing.
        num_proc=num_proc if num_proc > 1 else None,
        cache_file_name=str(cache_file),
        load_from_cache_file=False,
        desc="Tokenising",
    )
    return encoded.with_format(None)


def _token_dtype(vocab_size: int) -> Any:
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


def _encode_batch(table: pa.Table, processor: sentencepiece.SentencePieceProcessor) -> pa.Table:
    text = table.column("text")
    documents = processor.encode(
        text.to_pylist(), out_type=int, add_bos=True, add_eos=True, num_threads=1
    )
    offsets = [0, *itertools.accumulate(map(len, documents))]
    dtype = _token_dtype(processor.vocab_size())
    tokens = np.fromiter(itertools.chain.from_iterable(documents), dtype, offsets[-1])
    return pa.table(
        {
            "id": table.column("id"),
            "input_ids": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), tokens),
            "num_text_bytes": pc.binary_length(text).cast(pa.int64()),
        }
    )


class _Ids(NamedTuple):
    """What the ids (32 hexadecimal digits) of a dataset say, in row order."""

    values: npt.NDArray[np.uint32]
    """Each id modulo 2**32."""
    smallest: int
    """Row of the smallest id; -1 in an empty dataset."""
    largest: int
    digest: str


def _read_ids(dataset: Dataset) -> _Ids:
    digest = xxhash.xxh3_128()
    values: list[npt.NDArray[np.uint32]] = [np.empty(0, np.uint32)]
    low, high = ("~", -1), ("", -1)
    row = 0
    for table in dataset.select_columns(["id"]).with_format("arrow").iter(batch_size=10_000):
        ids = table.column("id").to_pylist()
        digest.update("".join(ids).encode())
        values.append(np.array([int(name[-8:], 16) for name in ids], np.uint32))
        numbered = list(zip(ids, itertools.count(row)))
        low, high = min(low, *numbered), max(high, *numbered)
        row += len(ids)
    return _Ids(np.concatenate(values), low[1], high[1], digest.hexdigest())


def build_store(
    out: Path,
    documents: Mapping[str, Dataset],
    tokenizer_dir: Path,
    *,
    holdout_share: float,
    num_proc: int,
) -> None:
    """Tokenise each source's documents (columns id, text) into the token store `out`.

    A store that was made from the same documents, tokenizer and share is kept. The split goes by
    document id (`StoreManifest.holdout_share`), so that it does not depend on order or company.
    """
    _check_replaceable(out, "manifest.json", "a token store")
    ids = {source: _read_ids(dataset) for source, dataset in documents.items()}
    _check_documents(ids, holdout_share)
    processor = load_processor(tokenizer_dir)
    sha256 = hashlib.sha256((tokenizer_dir / "tokenizer.model").read_bytes()).hexdigest()
    digests = [(source, len(ids[source].values), ids[source].digest) for source in ids]
    fingerprint = _fingerprint([FORMAT_VERSION, sha256, holdout_share, digests])
    if _is_store_current(out, fingerprint):
        return
    with atomic_directory(out) as store:
        shutil.copytree(tokenizer_dir, store / "tokenizer")
        sources: dict[str, dict[Split, SplitManifest]] = {}
        for source, dataset in documents.items():
            held_out = _held_out(ids[source], holdout_share)
            rows = {"train": np.flatnonzero(~held_out), "validation": np.flatnonzero(held_out)}
            sources[source] = {
                split: _write_split(
                    store, store / source / split, dataset.select(rows[split]), num_proc
                )
                for split in SPLITS
            }
        manifest = StoreManifest(
            version=FORMAT_VERSION,
            tokenizer_sha256=sha256,
            vocab_size=processor.vocab_size(),
            bos_token_id=processor.bos_id(),
            eos_token_id=processor.eos_id(),
            dtype=_token_dtype(processor.vocab_size()),
            holdout_share=holdout_share,
            fingerprint=fingerprint,
            sources=sources,
        )
        (store / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")


def _check_documents(ids: Mapping[str, _Ids], holdout_share: float) -> None:
    for source in ids:
        if not re.fullmatch(r"\w[\w.-]*", source) or source in ("tokenizer", "manifest.json"):
            raise ValueError(
                f"source {source!r} cannot name a folder of the store: use letters, digits, _ . -"
            )
    if not 0 <= holdout_share < 1:
        raise ValueError(f"holdout_share ({holdout_share}) must be at least 0 and less than 1")
    counts = [len(source_ids.values) for source_ids in ids.values()]
    if sum(counts) == 0:
        raise ValueError("there are no documents to tokenise: the corpus is empty")
    if holdout_share > 0 and max(counts) < 2:
        raise ValueError(
            f"no source has two documents (sources: {len(counts)}, documents: {sum(counts)}), so "
            "none can be held out: give more documents, or set holdout_share to 0"
        )


def _held_out(ids: _Ids, holdout_share: float) -> npt.NDArray[np.bool_]:
    held_out = ids.values < holdout_share * 2.0**32
    if holdout_share > 0 and len(held_out) > 1:
        if not held_out.any():
            held_out[ids.smallest] = True
        if held_out.all():
            held_out[ids.largest] = False
    elif len(held_out) == 1:
        held_out[0] = False
    return held_out


def _write_split(store: Path, folder: Path, documents: Dataset, num_proc: int) -> SplitManifest:
    if len(documents) == 0:
        return SplitManifest(num_documents=0, num_tokens=0, num_text_bytes=0, files=())
    cache = store / ".encoding"
    cache.mkdir()
    encoded = encode_documents(documents, store / "tokenizer", num_proc, cache / "rows.arrow")
    num_text_bytes: int = pc.sum(encoded.data.column("num_text_bytes")).as_py()
    encoded.remove_columns("num_text_bytes").save_to_disk(folder, max_shard_size=_SHARD_SIZE)
    shutil.rmtree(cache)
    files: tuple[ShardFile, ...] = tuple(
        describe_file(store, path) for path in sorted(folder.glob("*.arrow"))
    )
    return SplitManifest(
        num_documents=sum(file.rows for file in files),
        num_tokens=sum(file.num_tokens for file in files),
        num_text_bytes=num_text_bytes,
        files=files,
    )


def _is_store_current(out: Path, fingerprint: str) -> bool:
    if not (out / "manifest.json").is_file():
        return False
    try:
        return TokenStore.open(out).manifest.fingerprint == fingerprint
    except ValueError:  # of an older format, or damaged: it is built anew
        return False


def _check_replaceable(out: Path, marker: str, what: str) -> None:
    """Publishing replaces a folder; it must not be one that holds something else."""
    if out.is_dir() and any(out.iterdir()) and not (out / marker).is_file():
        raise ValueError(f"{out} exists and is not {what}; name another place")


def _fingerprint(parts: object) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(parts, sort_keys=True).encode())
