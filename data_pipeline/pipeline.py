"""From a source's raw files to a folder of clean, distinct documents.

The input files are cut into groups, in the order of their names. Each group becomes one part
(`parts.py`), by whichever process is free, and every finished part outlives a kill. Then the parts
are compared: duplicates are removed, and what stays is published as a documents folder
(`documents.py`). How files are grouped depends on the files alone, so the result is the same, byte
for byte, for any number of processes and after any number of interruptions.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipeline.decontamination import sets_hit
from data_pipeline.dedup import as_ids, keep_first
from data_pipeline.document import SCHEMA, Removal, Source
from data_pipeline.documents import (
    DROPPED_SCHEMA,
    IGNORED_SCHEMA,
    MANIFEST_VERSION,
    Manifest,
    ShardFile,
    checksum,
    described,
    finished_manifest,
    read_manifest,
)
from data_pipeline.engine import Engine
from data_pipeline.fingerprint import (
    code_fingerprint,
    files_fingerprint,
    functions_of,
    modules_behind,
    package_versions,
    source_fingerprint,
)
from data_pipeline.inputs import Inputs
from data_pipeline.parts import Part, build_part, groups
from data_pipeline.publish import atomic_directory
from data_pipeline.workers import Processes

ONE_PROCESS = Processes(1)


class BuildError(RuntimeError):
    """A reader, an edit or a filter failed on some files; what it made of the others is kept."""


def build_corpus(
    sources: Sequence[tuple[Source, Path]],
    out: Path,
    *,
    engine: Engine = ONE_PROCESS,
    may_be_empty: bool = False,
) -> dict[str, Manifest]:
    """Build each (source, root) into `out/<source name>`; a text stays in the first that has it.

    With `may_be_empty`, a source of which nothing is kept does not stop the others.
    """
    names = [source.name for source, _ in sources]
    if len(set(names)) < len(names):
        raise ValueError(f"source names {names} must differ from one another")
    manifests: dict[str, Manifest] = {}
    for source, root in sources:
        earlier = [out / name for name in manifests]
        manifests[source.name] = build_documents(
            source,
            root,
            out / source.name,
            engine=engine,
            earlier=earlier,
            may_be_empty=may_be_empty,
        )
    return manifests


def build_documents(
    source: Source,
    root: Path,
    out: Path,
    *,
    engine: Engine = ONE_PROCESS,
    earlier: Sequence[Path] = (),
    may_be_empty: bool = False,
) -> Manifest:
    """Read everything under `root` and publish the folder `out`, with `engine`.

    Documents that the folders `earlier` hold are dropped as duplicates. A finished `out` that was
    made from the same files by the same code and thresholds is left as it is, and so is each part
    of an unfinished or outdated one (they lie in `.parts/` beside `out`). ValueError if nothing is
    there to read or, without `may_be_empty`, nothing is kept; BuildError if a
    function of the source failed.
    """
    if out.resolve().is_relative_to(root.resolve()):
        raise ValueError(
            f"the output {out} lies inside the corpus {root}, which would then read itself; "
            "put it elsewhere"
        )
    found = source.inputs(root)
    if not found.files:
        counts = described(Counter(item.reason for item in found.ignored))
        raise ValueError(f"{root} has nothing that source '{source.name}' reads: {counts} ignored")
    parts = _parts(source, found, out.parent / ".parts" / out.name)
    fingerprint = files_fingerprint(
        (),
        [
            *(part.folder.name for part in parts),
            *(f"{item.source_file} {item.reason}" for item in found.ignored),
            *(read_manifest(folder).fingerprint for folder in earlier),
            *_fingerprint_of_comparing(source),
        ],
    )
    finished = finished_manifest(out)
    is_usable = finished is not None and (finished.num_kept > 0 or may_be_empty)
    if finished is not None and is_usable and finished.fingerprint == fingerprint:
        return finished
    _build_parts(parts, engine)
    with atomic_directory(out) as folder:
        sizes = [part.num_bytes for part in parts]
        label = f"deduplicate {source.name}"
        tasks = _duplicates(parts, earlier, folder)
        published = engine.map(_publish_part, tasks, sizes, label=label)
        if source.near_duplicates is not None:
            published = _without_near_duplicates(folder, published, source.near_duplicates)
        manifest = _summary(published, parts, found, fingerprint)
        if manifest.num_kept == 0 and not may_be_empty:
            raise ValueError(f"no document of {root} was kept: {_why_nothing(manifest, parts)}")
        inputs = pa.concat_tables([pq.read_table(part.inputs) for part in parts])
        pq.write_table(inputs, folder / "inputs.parquet", compression="zstd")
        ignored = pa.Table.from_pylist([asdict(item) for item in found.ignored], IGNORED_SCHEMA)
        pq.write_table(ignored, folder / "ignored.parquet", compression="zstd")
        (folder / "manifest.json").write_bytes(manifest.to_json())
    _forget_other_parts(parts)
    return manifest


# -- parts ----------------------------------------------------------------------------------------


def _parts(source: Source, found: Inputs, folder: Path) -> list[Part]:
    how = source_fingerprint(source)
    parts = []
    for files in groups(found.files):
        name = files_fingerprint(files, [how])
        # Two levels: a crawl has hundreds of thousands of files.
        parts.append(Part(source, files, folder / name[:2] / name))
    return parts


@dataclass(frozen=True)
class _Failure:
    part: Part
    trace: str


def _build_parts(parts: Sequence[Part], engine: Engine) -> None:
    missing = [part for part in parts if not part.is_whole()]
    if not missing:
        return
    sizes = [part.num_bytes for part in missing]
    label = f"read {missing[0].source.name}"
    results = engine.map(_try_part, missing, sizes, label=label)
    failures = [result for result in results if result is not None]
    if failures:
        first = failures[0]
        files = ", ".join(file.source_file for file in first.part.files[:3])
        raise BuildError(
            f"source '{first.part.source.name}' failed on {len(failures)} of {len(missing)} groups "
            f"of files; the others are finished and kept. The first is {files}:\n{first.trace}"
        )


def _try_part(part: Part) -> _Failure | None:
    """An error of the source's own functions ends its part only; the disk's ends the build."""
    try:
        build_part(part)
    except OSError:
        raise
    except Exception:
        return _Failure(part, traceback.format_exc())
    return None


def _forget_other_parts(parts: Sequence[Part]) -> None:
    """Remove parts made from other files or thresholds, and what killed processes left."""
    names = {part.folder.name for part in parts}
    for half in parts[0].folder.parent.parent.iterdir():
        for folder in half.iterdir():
            if folder.name not in names:
                shutil.rmtree(folder)
        if not any(half.iterdir()):
            half.rmdir()


def _fingerprint_of_comparing(source: Source) -> list[str]:
    """Of what decides about the documents after the parts are made."""
    compare = source.near_duplicates
    return [] if compare is None else [code_fingerprint([], [compare])]


# -- documents ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Publication:
    """A part, which of its documents stay, and where they go."""

    part: Part
    index: int
    keep: npt.NDArray[np.bool_]
    folder: Path


@dataclass(frozen=True)
class _Published:
    files: tuple[ShardFile, ...]
    num_text_bytes: int
    dropped: Counter[str]
    contaminated: Counter[str]


def _duplicates(parts: Sequence[Part], earlier: Sequence[Path], folder: Path) -> list[_Publication]:
    """Each part with the mask of its documents that stay."""
    keys = [np.load(part.keys) for part in parts]
    keep = keep_first(keys)
    for known in earlier:
        ids = np.concatenate(
            [as_ids(()), *(_ids(known / file.path) for file in read_manifest(known).files)]
        )
        for part, mask in zip(parts, keep, strict=True):
            own = [_ids(path) for path in part.documents]
            mask &= ~np.isin(np.concatenate([as_ids(()), *own]), ids)
    return [
        _Publication(part, index, mask, folder)
        for index, (part, mask) in enumerate(zip(parts, keep, strict=True))
    ]


def _ids(path: Path) -> npt.NDArray[np.bytes_]:
    return as_ids(pq.read_table(path, columns=["id"]).column("id").to_pylist())


def _publish_part(task: _Publication) -> _Published:
    """Put the documents that stay, and a list of all that do not, into the documents folder."""
    dropped_path = task.folder / _dropped_name(task.index)
    files: list[ShardFile] = []
    num_text_bytes = start = 0
    with pq.ParquetWriter(dropped_path, DROPPED_SCHEMA, compression="zstd") as dropped:
        with pq.ParquetFile(task.part.dropped) as earlier:
            for batch in earlier.iter_batches(use_threads=False):
                dropped.write_batch(batch)
        for number, path in enumerate(task.part.documents):
            target = task.folder / f"documents-{task.index:05}-{number:03}.parquet"
            num_rows = pq.read_metadata(path).num_rows
            mask = task.keep[start : start + num_rows]
            start += num_rows
            if mask.all():
                _link(path, target)
            else:
                _write_kept(path, target, mask, dropped)
            if mask.any():
                files.append(_shard_file(target, int(mask.sum())))
                num_text_bytes += _text_bytes(target)
    assert start == len(task.keep), f"{task.part.folder}: {start} rows, {len(task.keep)} keys"
    return _published(task.folder, dropped_path, files, num_text_bytes)


def _without_near_duplicates(
    folder: Path,
    published: Sequence[_Published],
    find: Callable[[Sequence[Path]], Sequence[Removal]],
) -> list[_Published]:
    """What was published, without the documents that `find` removes."""
    paths = [folder / file.path for part in published for file in part.files]
    removals = {removal.removed_id: removal for removal in find(paths)}
    return [_remove(folder, index, part, removals) for index, part in enumerate(published)]


def _remove(
    folder: Path, index: int, part: _Published, removals: Mapping[str, Removal]
) -> _Published:
    files: list[ShardFile] = []
    dropped_path = folder / _dropped_name(index)
    dropped = [pq.read_table(dropped_path)]
    num_text_bytes = 0
    for file in part.files:
        path = folder / file.path
        rows = pq.read_table(path, columns=["source_file", "offset", "id"]).to_pylist()
        mask = np.array([row["id"] not in removals for row in rows], dtype=bool)
        if not mask.all():
            rewritten = path.with_suffix(".rewritten")
            _write_rows(path, rewritten, mask)
            rewritten.replace(path)
            gone = [_near_duplicate(row, removals) for row in rows if row["id"] in removals]
            dropped.append(pa.Table.from_pylist(gone, DROPPED_SCHEMA))
        if mask.any():
            files.append(file if mask.all() else _shard_file(path, int(mask.sum())))
            num_text_bytes += _text_bytes(path)
        else:
            path.unlink()
    if len(dropped) > 1:
        pq.write_table(pa.concat_tables(dropped), dropped_path, compression="zstd")
    return _published(folder, dropped_path, files, num_text_bytes)


def _near_duplicate(row: Mapping[str, Any], removals: Mapping[str, Removal]) -> dict[str, Any]:
    removal = removals[row["id"]]
    detail = f"{removal.similarity:.3f} like {removal.kept_id}"
    return {**row, "reason": "near_duplicate", "detail": detail}


def _dropped_name(index: int) -> str:
    return f"dropped-{index:05}.parquet"


def _shard_file(path: Path, num_rows: int) -> ShardFile:
    return ShardFile(path.name, num_rows, path.stat().st_size, checksum(path))


def _published(
    folder: Path, dropped_path: Path, files: Sequence[ShardFile], num_text_bytes: int
) -> _Published:
    """With the counts of what was dropped, and of evaluation sets in documents of either kind."""
    dropped = pq.read_table(dropped_path, columns=["reason", "detail"])
    reasons = dropped.column("reason")
    hits = dropped.column("detail").filter(pc.equal(reasons, "contaminated")).to_pylist()
    for file in files:
        flags = pq.read_table(folder / file.path, columns=["contamination"])
        hits += flags.column(0).drop_null().to_pylist()
    contaminated = Counter(name for hit in hits for name in sets_hit(hit))
    return _Published(tuple(files), num_text_bytes, Counter(reasons.to_pylist()), contaminated)


def _link(path: Path, target: Path) -> None:
    """The same file under a second name, where the file system can."""
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)


def _write_kept(
    path: Path, target: Path, mask: npt.NDArray[np.bool_], dropped: pq.ParquetWriter
) -> None:
    """The rows that `mask` keeps as the file `target` (none: no file), the others to `dropped`."""
    if mask.any():
        _write_rows(path, target, mask)
    places = pq.read_table(path, columns=["source_file", "offset", "id"])
    gone = places.filter(pa.array(~mask)).to_pylist()
    reasons = {"reason": "duplicate", "detail": None}
    dropped.write_table(pa.Table.from_pylist([{**row, **reasons} for row in gone], DROPPED_SCHEMA))


def _write_rows(path: Path, target: Path, mask: npt.NDArray[np.bool_]) -> None:
    """The rows of `path` that `mask` keeps, row group by row group."""
    start = 0
    with (
        pq.ParquetFile(path) as parquet,
        pq.ParquetWriter(target, SCHEMA, compression="zstd") as writer,
    ):
        for index in range(parquet.num_row_groups):
            rows = parquet.read_row_group(index, use_threads=False)
            keep = pa.array(mask[start : start + rows.num_rows])
            start += rows.num_rows
            if keep.true_count:
                writer.write_table(rows.filter(keep))


def _text_bytes(path: Path) -> int:
    total = 0
    with pq.ParquetFile(path) as parquet:
        for batch in parquet.iter_batches(columns=["text"], use_threads=False):
            total += pc.sum(pc.binary_length(batch.column(0))).as_py()
    return total


def _summary(
    published: Sequence[_Published], parts: Sequence[Part], found: Inputs, fingerprint: str
) -> Manifest:
    source = parts[0].source
    dropped = sum((part.dropped for part in published), Counter[str]())
    contaminated = sum((part.contaminated for part in published), Counter[str]())
    files = tuple(file for part in published for file in part.files)
    num_kept = sum(file.rows for file in files)
    return Manifest(
        version=MANIFEST_VERSION,
        source=source.name,
        fingerprint=fingerprint,
        versions={
            "llama-ds": importlib.metadata.version("llama-ds"),
            "python": platform.python_version(),
            **dict(sorted(package_versions(modules_behind(functions_of(source)).values()).items())),
        },
        num_input_files=len(found.files),
        num_input_bytes=sum(file.size for file in found.files),
        num_read=num_kept + dropped.total(),
        num_kept=num_kept,
        dropped=dict(sorted(dropped.items())),
        contaminated=dict(sorted(contaminated.items())),
        ignored=dict(sorted(Counter(item.reason for item in found.ignored).items())),
        num_text_bytes=sum(part.num_text_bytes for part in published),
        files=files,
    )


def _why_nothing(manifest: Manifest, parts: Sequence[Part]) -> str:
    """Counts per reason, and the first thing that was dropped."""
    rows = (row for part in parts for row in pq.read_table(part.dropped).slice(0, 1).to_pylist())
    first = next(rows)
    detail = f"{first['source_file']}: {first['detail'] or first['reason']}"
    return f"{described(manifest.dropped)} (first: {detail})"
