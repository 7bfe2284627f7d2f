"""Trains a SentencePiece BPE tokenizer on documents, with LLaMA's settings."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import sentencepiece
import tokenizers
import xxhash
from datasets.utils import tqdm
from sentencepiece import sentencepiece_model_pb2

from data_pipeline.documents_folder import Manifest, read_manifest
from data_pipeline.executors.executor import Executor
from data_pipeline.executors.local import Processes
from data_pipeline.files.atomic import atomic_directory, check_replaceable
from data_pipeline.sampling import keyed_hash
from data_pipeline.tokens.tokenizer_folder import write_tokenizer
from data_pipeline.tokens.word_counts import COUNT_SIZES, CountSizes, count_words

# SentencePiece skips lines of more bytes than its max_sentence_length, and lines with its reserved
# character U+2585. Lines are split there instead; UTF-8 needs at most 4 bytes
# per character.
_LINE_CHARACTERS = 16_384
_LINE_BREAK = re.compile("[\n\u2585]")
_TAB = "\t"
# A backspace; words that contain one themselves are dropped.
_STAND_IN = "\b"
ONE_PROCESS = Processes(1)


@dataclass(frozen=True)
class TokenizerConfig:
    """Tokenizer training settings. All others are those of LLaMA's published tokenizer.model."""

    vocab_size: int = 32_000
    method: Literal["sample", "word_counts"] = "sample"
    """Train on a sample of the documents, or on the word counts of all documents (`word_counts`):
    the same tokenizer that all text would train."""
    sample_bytes: int = 1_000_000_000
    """Maximum training text, in UTF-8 bytes; training takes about 6 bytes of memory for each."""
    seed: int = 0
    """Seed for sampling documents where there is more text than sample_bytes."""
    max_words: int = 20_000_000
    """Maximum distinct words; above it the rarest are dropped. About 200 bytes of memory for
    each."""

    def __post_init__(self) -> None:
        for name in ("vocab_size", "sample_bytes", "max_words"):
            value = getattr(self, name)
            if value <= 0:
                raise ValueError(f"tokenizer.{name} ({value}) must be positive")
        if self.seed < 0:
            raise ValueError(f"tokenizer.seed ({self.seed}) must not be negative")


# --- training ---------------------------------------------------------------------------------


def train_tokenizer(
    documents: Mapping[str, Path],
    out: Path,
    config: TokenizerConfig,
    *,
    shares: Mapping[str, float] | None = None,
    executor: Executor = ONE_PROCESS,
    count_sizes: CountSizes = COUNT_SIZES,
) -> None:
    """Train on documents folders, by source, and write the tokenizer folder `out`.

    A sample draws from the sources in proportion to `shares` (all of a source with less text), or
    by default to their sizes; word counts cover all text. `executor` runs the counting,
    within the memory of `count_sizes`.
    Deterministic: equal text, shares and config give equal bytes. An up-to-date folder is kept.
    ValueError where the text is empty or does not support `config.vocab_size`.
    """
    check_replaceable(out, "tokenizer.json", "a tokenizer")
    settings = dataclasses.asdict(config)
    manifests = {source: read_manifest(folder) for source, folder in documents.items()}
    texts = {name: [file.xxh3_64 for file in m.files] for name, m in manifests.items()}
    rates = _sampling_rates(manifests, config.sample_bytes, shares)
    about = [sentencepiece.__version__, tokenizers.__version__, settings, texts, rates]
    fingerprint = xxhash.xxh3_128_hexdigest(json.dumps(about, sort_keys=True).encode())
    if _is_tokenizer_current(out, fingerprint):
        return
    if config.method == "word_counts":
        model = _train_on_counts(documents, out, config, executor, count_sizes)
        sample_bytes = {name: manifest.num_text_bytes for name, manifest in manifests.items()}
    else:
        sample = _Sample(documents, rates, config)
        model = _train_sentencepiece(sample.lines(), config, input_format="text")
        sample_bytes = sample.num_bytes
    origin = {"config": settings, "fingerprint": fingerprint, "sample": sample_bytes}
    with atomic_directory(out) as folder:
        write_tokenizer(model, folder, origin)


def train_on_lines(lines: Iterator[str], out: Path, config: TokenizerConfig) -> None:
    """Train on any lines, and write the tokenizer folder `out`."""
    model = _train_sentencepiece(lines, config, input_format="text")
    with atomic_directory(out) as folder:
        write_tokenizer(model, folder, {"config": dataclasses.asdict(config)})


def _is_tokenizer_current(folder: Path, fingerprint: str) -> bool:
    manifest_file, model_file = folder / "manifest.json", folder / "tokenizer.model"
    if not (manifest_file.is_file() and model_file.is_file()):
        return False
    manifest = json.loads(manifest_file.read_text(encoding="utf-8"))
    sha256 = hashlib.sha256(model_file.read_bytes()).hexdigest()
    return bool(manifest.get("fingerprint") == fingerprint and manifest["sha256"] == sha256)


def _sampling_rates(
    manifests: Mapping[str, Manifest], sample_bytes: int, shares: Mapping[str, float] | None
) -> dict[str, float]:
    """Fraction of each source's documents to train on.

    Where a source has less text than its share, the rest goes to the others, in proportion.
    """
    sizes = {source: manifest.num_text_bytes for source, manifest in manifests.items()}
    if shares is not None and (unknown := sorted(set(sizes) - set(shares))):
        raise ValueError(f"shares has no share for {', '.join(unknown)}, which is trained on")
    weights = {source: shares[source] if shares else size for source, size in sizes.items()}
    rates: dict[str, float] = {}
    left, open_sources = float(sample_bytes), [name for name, size in sizes.items() if size > 0]
    while open_sources:
        total = sum(weights[name] for name in open_sources)
        wanted = {name: left * weights[name] / total if total else 0.0 for name in open_sources}
        short = [name for name in open_sources if sizes[name] <= wanted[name]]
        if not short:
            return rates | {name: wanted[name] / sizes[name] for name in open_sources}
        for name in short:
            rates[name] = 1.0
            left -= sizes[name]
            open_sources.remove(name)
    return rates


class _Sample:
    """Lines of a sample of documents, selected by a keyed hash of their ids."""

    def __init__(
        self, documents: Mapping[str, Path], rates: Mapping[str, float], config: TokenizerConfig
    ) -> None:
        self._documents, self._rates, self._config = documents, rates, config
        self.num_bytes: dict[str, int] = {}
        """UTF-8 bytes yielded, per source."""

    def lines(self) -> Iterator[str]:
        left = self._config.sample_bytes
        with tqdm(unit="B", unit_scale=True, desc="Reading text for the tokenizer") as bar:
            for source, rate in self._rates.items():
                self.num_bytes[source] = 0
                for text in self._texts(self._documents[source], rate):
                    for line in lines_for_training(text):
                        size = len(line.encode())
                        if size > left:  # the hash selected slightly more than wanted
                            return
                        left -= size
                        self.num_bytes[source] += size
                        bar.update(size)
                        yield line

    def _texts(self, folder: Path, rate: float) -> Iterator[str]:
        for file in read_manifest(folder).files:
            with pq.ParquetFile(folder / file.path) as parquet:
                for group in range(parquet.num_row_groups):
                    ids = parquet.read_row_group(group, ["id"], use_threads=False)["id"].to_pylist()
                    chosen = [keyed_hash(i, self._config.seed) < rate * 2.0**64 for i in ids]
                    if any(chosen):
                        table = parquet.read_row_group(group, ["text"], use_threads=False)
                        yield from table["text"].filter(pa.array(chosen)).to_pylist()


def lines_for_training(text: str) -> Iterator[str]:
    """The lines of a text, split where SentencePiece would skip a line."""
    for line in _LINE_BREAK.split(text):
        for begin in range(0, len(line), _LINE_CHARACTERS):
            yield line[begin : begin + _LINE_CHARACTERS]


def _train_on_counts(
    documents: Mapping[str, Path],
    out: Path,
    config: TokenizerConfig,
    executor: Executor,
    sizes: CountSizes,
) -> bytes:
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".words-", dir=out.parent) as work:
        words = count_words(
            documents,
            lines_for_training,
            Path(work),
            max_words=config.max_words,
            executor=executor,
            sizes=sizes,
        )
        # A tab separates the word from its count, so tabs within words are replaced.
        rows = (f"{w.replace(_TAB, _STAND_IN)}\t{n}" for w, n in words if w and _STAND_IN not in w)
        trained = _train_sentencepiece(rows, config, input_format="tsv")
    model: Any = sentencepiece_model_pb2.ModelProto.FromString(trained)  # type: ignore[attr-defined]
    for piece in model.pieces:
        piece.piece = piece.piece.replace(_STAND_IN, _TAB)
    return bytes(model.SerializeToString(deterministic=True))


def _train_sentencepiece(lines: Iterator[str], config: TokenizerConfig, input_format: str) -> bytes:
    """The bytes of tokenizer.model.

    The settings are those stored in LLaMA's published tokenizer.model; the paper (section 2.1)
    names byte-pair encoding, split digits and byte fallback.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines,
            model_writer=model,
            input_format=input_format,
            model_type="bpe",
            vocab_size=config.vocab_size,
            # BPE training gains nothing from threads, and their number is stored in the model file.
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
    """SentencePiece's error in terms of the user's settings."""
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
