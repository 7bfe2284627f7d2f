"""Builds the token store: tokenizes documents folders into Arrow shards with a held-out split.

Consecutive documents files become a shard: a folder in `.shards` beside the store, named by a
fingerprint of the files' checksums, the tokenizer and the held-out share. Shards are a crash-safe
cache: a changed documents file rebuilds its shard only. The store is assembled from hard links to
the shards' files.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from datasets import Features, List, Value

from data_pipeline.documents_folder import read_manifest
from data_pipeline.executors.executor import Executor
from data_pipeline.files.atomic import atomic_directory, check_replaceable, link_or_copy
from data_pipeline.tokens.encoder import Encoder, TokenizerIdentity
from data_pipeline.tokens.provenance import COLUMNS, TEXT_BYTES
from data_pipeline.tokens.store import (
    FORMAT_VERSION,
    SPLITS,
    Split,
    SplitManifest,
    StoreManifest,
    TokenStore,
    describe_file,
    describe_provenance,
)
from data_pipeline.tokens.tokenizer_folder import copy_tokenizer, load_encoder
from data_pipeline.tokens.tokenizer_identity import tokenizer_identity

SHARD_BYTES = 256 << 20
"""Documents files in a shard: small enough to open fast, large enough for few files."""
_BATCH_ROWS = 256
_BATCH_TEXT_BYTES = 16 << 20


@dataclass(frozen=True)
class _Shard:
    """Task: documents files of one source, to be tokenized into one Arrow file per split."""

    source: str
    documents: tuple[Path, ...]
    num_bytes: int
    folder: Path
    tokenizer: Path
    holdout: Holdout


@dataclass(frozen=True)
class Holdout:
    """Rule that selects the held-out documents of a source."""

    share: float
    """Those whose id, as an integer modulo 2**32, is below this share of 2**32 ..."""
    always: str | None = None
    """... and this id, ..."""
    never: str | None = None
    """... but not this one: a source of two documents or more has one on each side."""

    def of(self, ids: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
        low = np.array([int(name[-8:], 16) for name in ids.to_pylist()], np.uint32)
        held_out = low < self.share * 2.0**32
        for name, value in ((self.always, True), (self.never, False)):
            if name is not None:
                held_out[pc.equal(ids, name).to_numpy()] = value
        return held_out


def build_store(
    out: Path,
    documents: Mapping[str, Path],
    tokenizer_dir: Path,
    *,
    holdout_share: float,
    executor: Executor,
    shard_bytes: int = SHARD_BYTES,
) -> StoreManifest:
    """Tokenize each source's documents folder into the token store `out`.

    An up-to-date store, of the same documents, tokenizer and share, is kept. The split is by
    document id (`StoreManifest.holdout_share`), so it does not depend on order or other documents.
    A shard holds up to `shard_bytes` of documents files as stored, or one larger file.
    ValueError for source names that cannot name folders, a share out of range, too few documents.
    """
    check_replaceable(out, "manifest.json", "a token store")
    _check_names(documents, holdout_share)
    identity = load_encoder(tokenizer_dir).identity
    counts = {source: _count(folder) for source, folder in documents.items()}
    _check_counts(counts, holdout_share)
    shards_folder = out.parent / ".shards" / out.name
    holdouts = _holdouts(documents, holdout_share, executor)
    shards = {
        source: _shards(
            source, folder, shards_folder, tokenizer_dir, identity, holdouts[source], shard_bytes
        )
        for source, folder in documents.items()
    }
    names = {source: [shard.folder.name for shard in found] for source, found in shards.items()}
    fingerprint = _fingerprint([FORMAT_VERSION, asdict(identity), holdout_share, names])
    if (current := _current_manifest(out, fingerprint)) is not None:
        return current
    everything = [shard for found in shards.values() for shard in found]
    missing = [shard for shard in everything if not (shard.folder / "counts.json").exists()]
    executor.map(_write_shard, missing, [shard.num_bytes for shard in missing], label="tokenize")
    with atomic_directory(out) as store:
        copy_tokenizer(tokenizer_dir, store / "tokenizer")
        manifest = StoreManifest(
            version=FORMAT_VERSION,
            tokenizer_sha256=identity.sha256,
            tokenizer_kind=identity.kind,
            vocab_size=identity.vocab_size,
            bos_token_id=identity.bos_token_id,
            eos_token_id=identity.eos_token_id,
            dtype=identity.dtype,
            holdout_share=holdout_share,
            fingerprint=fingerprint,
            sources={
                source: {split: _join(store, source, split, found) for split in SPLITS}
                for source, found in shards.items()
            },
            tokenizer_identity=tokenizer_identity(tokenizer_dir) or "",
            licenses={name: read_manifest(folder).licenses for name, folder in documents.items()},
        )
        (store / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")
    _delete_stale_shards(shards, shards_folder)
    return manifest


def _check_names(documents: Mapping[str, Path], holdout_share: float) -> None:
    for source in documents:
        if not re.fullmatch(r"\w[\w.-]*", source) or source in ("tokenizer", "manifest.json"):
            raise ValueError(
                f"source {source!r} cannot name a folder of the store: use letters, digits, _ . -"
            )
    if not 0 <= holdout_share < 1:
        raise ValueError(f"holdout_share ({holdout_share}) must be at least 0 and less than 1")


def _count(folder: Path) -> int:
    return sum(file.rows for file in read_manifest(folder).files)


def _check_counts(counts: Mapping[str, int], holdout_share: float) -> None:
    if sum(counts.values()) == 0:
        raise ValueError("there are no documents to tokenize: the corpus is empty")
    if holdout_share > 0 and max(counts.values()) < 2:
        raise ValueError(
            f"no source has two documents (sources: {len(counts)}, documents: "
            f"{sum(counts.values())}), so none can be held out: give more documents, or set "
            "holdout_share to 0"
        )


def _fingerprint(parts: object) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(parts, sort_keys=True).encode())


def _current_manifest(out: Path, fingerprint: str) -> StoreManifest | None:
    if not (out / "manifest.json").is_file():
        return None
    try:
        manifest = TokenStore.open(out).manifest
    except ValueError:  # of an older format, or damaged: it is rebuilt
        return None
    return manifest if manifest.fingerprint == fingerprint else None


# -- shards ---------------------------------------------------------------------------------------


def _shards(
    source: str,
    folder: Path,
    shards_folder: Path,
    tokenizer_dir: Path,
    identity: TokenizerIdentity,
    holdout: Holdout,
    shard_bytes: int,
) -> list[_Shard]:
    """Groups of consecutive documents files of up to `shard_bytes`; a larger file by itself."""
    files = read_manifest(folder).files
    shards = []
    start = used = 0
    for end in range(1, len(files) + 1):
        used += files[end - 1].bytes
        if end < len(files) and used + files[end].bytes <= shard_bytes:
            continue
        group = files[start:end]
        about = [
            FORMAT_VERSION,
            asdict(identity),
            source,
            vars(holdout),
            [file.xxh3_64 for file in group],
        ]
        paths = tuple(folder / file.path for file in group)
        name = _fingerprint(about)
        shards.append(_Shard(source, paths, used, shards_folder / name, tokenizer_dir, holdout))
        start, used = end, 0
    return shards


def _holdouts(
    documents: Mapping[str, Path], share: float, executor: Executor
) -> dict[str, Holdout]:
    """Each source's rule, adjusted so that both splits have documents, if there are two."""
    plain = Holdout(share)
    if share == 0:
        return dict.fromkeys(documents, plain)
    paths = [
        (source, folder / file.path)
        for source, folder in documents.items()
        for file in read_manifest(folder).files
    ]
    tasks = [(path, plain) for _, path in paths]
    found = executor.map(_survey, tasks, [p.stat().st_size for _, p in paths], label="read ids")
    by_source: dict[str, list[_Survey]] = {source: [] for source in documents}
    for (source, _), survey in zip(paths, found, strict=True):
        by_source[source].append(survey)
    return {source: _holdout(plain, surveys) for source, surveys in by_source.items()}


def _holdout(plain: Holdout, surveys: Sequence[_Survey]) -> Holdout:
    count = sum(survey.count for survey in surveys)
    held_out = sum(survey.held_out for survey in surveys)
    if count > 1 and held_out == 0:
        return replace(plain, always=min(survey.smallest for survey in surveys))
    if count >= 1 and held_out == count:
        return replace(plain, never=max(survey.largest for survey in surveys))
    return plain


@dataclass(frozen=True)
class _Survey:
    count: int
    held_out: int
    smallest: str
    largest: str


def _survey(task: tuple[Path, Holdout]) -> _Survey:
    path, holdout = task
    ids = pq.read_table(path, columns=["id"]).column("id")
    extremes = pc.min_max(ids).as_py()
    held_out = int(holdout.of(ids).sum())
    return _Survey(len(ids), held_out, extremes["min"], extremes["max"])


def _write_shard(shard: _Shard) -> None:
    """Write the shard's folder: an Arrow and a Parquet file for each split with documents."""
    encoder = load_encoder(shard.tokenizer)
    with atomic_directory(shard.folder) as folder:
        writers = {split: _SplitWriter(folder, split, encoder) for split in SPLITS}
        for table in _batches(shard.documents):
            held_out = shard.holdout.of(table.column("id"))
            for split, writer in writers.items():
                chosen = held_out if split == "validation" else ~held_out
                if chosen.any():
                    writer.add(table.filter(pa.array(chosen)))
        counts = {split: writer.close() for split, writer in writers.items()}
        (folder / "counts.json").write_text(json.dumps(counts))


def _batches(documents: Sequence[Path]) -> Iterator[pa.Table]:
    """Batches with the columns of `provenance.COLUMNS` and `text`, bounded in rows and bytes."""
    for path in documents:
        with pq.ParquetFile(path) as parquet:
            for batch in parquet.iter_batches(
                _BATCH_ROWS, columns=[*COLUMNS, "text"], use_threads=False
            ):
                ends = np.cumsum(pc.binary_length(batch.column("text")).to_numpy())
                start = 0
                while start < batch.num_rows:
                    before = ends[start - 1] if start else 0
                    end = int(np.searchsorted(ends, before + _BATCH_TEXT_BYTES, "right"))
                    end = max(end, start + 1)
                    yield pa.Table.from_batches([batch.slice(start, end - start)])
                    start = end


class _SplitWriter:
    """Writes one split of a shard; files are created with the first document."""

    def __init__(self, folder: Path, split: Split, encoder: Encoder) -> None:
        self._encoder = encoder
        self._features = Features(
            {"id": Value("string"), "input_ids": List(Value(encoder.identity.dtype))}
        )
        self._arrow, self._parquet = folder / f"{split}.arrow", folder / f"{split}.parquet"
        self._tokens: pa.ipc.RecordBatchStreamWriter | None = None
        self._provenance: pq.ParquetWriter | None = None
        self._counts = {"num_text_bytes": 0, "num_byte_tokens": 0}

    def add(self, table: pa.Table) -> None:
        text = table.column("text")
        encoded = self._encoder.encode(text.to_pylist())
        sizes = pc.cast(pc.binary_length(text), pa.int64())
        self._counts["num_text_bytes"] += pc.sum(sizes).as_py()
        self._counts["num_byte_tokens"] += encoded.num_byte_tokens
        ids = pa.ListArray.from_arrays(
            pa.array(encoded.offsets, pa.int32()), pa.array(encoded.tokens)
        )
        rows = pa.table(
            [table.column("id").combine_chunks(), ids], schema=self._features.arrow_schema
        )
        places = table.select(list(COLUMNS)).append_column(TEXT_BYTES, sizes)
        if self._tokens is None or self._provenance is None:
            self._tokens = pa.ipc.new_stream(str(self._arrow), rows.schema)
            self._provenance = pq.ParquetWriter(self._parquet, places.schema, compression="zstd")
        self._tokens.write_table(rows)
        self._provenance.write_table(places)

    def close(self) -> dict[str, int]:
        if self._tokens is not None and self._provenance is not None:
            self._tokens.close()
            self._provenance.close()
        return self._counts


# -- the store ------------------------------------------------------------------------------------


def _join(store: Path, source: str, split: Split, shards: Sequence[_Shard]) -> SplitManifest:
    """Hard-link the shards' files of a split into the store."""
    used = [shard.folder for shard in shards if (shard.folder / f"{split}.arrow").exists()]
    counts = [json.loads((shard.folder / "counts.json").read_bytes())[split] for shard in shards]
    folder = store / source / split
    files, provenance = [], []
    for index, shard_folder in enumerate(used):
        folder.mkdir(parents=True, exist_ok=True)
        place = f"{index:05}-of-{len(used):05}"
        tokens, places = folder / f"data-{place}.arrow", folder / f"provenance-{place}.parquet"
        link_or_copy(shard_folder / f"{split}.arrow", tokens)
        link_or_copy(shard_folder / f"{split}.parquet", places)
        files.append(describe_file(store, tokens))
        provenance.append(describe_provenance(store, places))
    if files:
        write_dataset_files(folder, [Path(file.path).name for file in files])
    return SplitManifest.of(
        tuple(files),
        num_text_bytes=sum(count["num_text_bytes"] for count in counts),
        num_byte_tokens=sum(count["num_byte_tokens"] for count in counts),
        provenance=tuple(provenance),
    )


def write_dataset_files(folder: Path, names: Sequence[str]) -> None:
    """Write the metadata that `datasets.load_from_disk` needs beside the Arrow files `names`."""
    with pa.memory_map(str(folder / names[0])) as source, pa.ipc.open_stream(source) as reader:
        features = Features.from_arrow_schema(reader.schema)
    texts = {name: "" for name in ("citation", "description", "homepage", "license")}
    info = {**texts, "features": features.to_dict()}
    state: dict[str, object] = {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": _fingerprint(list(names))[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=2), encoding="utf-8")
    (folder / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")


def _delete_stale_shards(shards: Mapping[str, Sequence[_Shard]], folder: Path) -> None:
    """Delete cached shards that this store does not use.

    Unlike stale parts they are not kept: shards are named by the content of documents, so code
    changes that do not change documents do not make them stale; and a stale shard would still
    contain documents that were removed on request.
    """
    names = {shard.folder.name for found in shards.values() for shard in found}
    for other in folder.iterdir() if folder.exists() else ():
        if other.name not in names:
            shutil.rmtree(other)
