"""Builds documents folders: read, edit, filter, deduplicate, publish.

1. The input files of a source are grouped in the order of their names. Each group becomes one part
   (`parts.py`), a crash-safe cache entry.
2. The documents of all parts of all sources are deduplicated by the corpus's rules
   (`run_rules.py`).
3. Kept documents are published, one documents folder (`documents_folder.py`) per source.

The grouping depends on the files alone, so the result is the same, byte for byte, for any executor
and any number of workers, and after any number of interruptions.
"""

from __future__ import annotations

import importlib.metadata
import platform
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipeline.build.duplicate_samples import sample_clusters, save_clusters
from data_pipeline.build.fingerprint import (
    code_behind,
    files_fingerprint,
    functions_of,
    package_versions,
    source_fingerprint,
)
from data_pipeline.build.kept_samples import samples
from data_pipeline.build.old_results import OldResults, clean_up
from data_pipeline.build.parts import PART_SIZES, Part, PartSizes, build_part, groups
from data_pipeline.build.publish_documents import (
    PartRemovals,
    Publication,
    Published,
    publish_part,
    removals_of_part,
)
from data_pipeline.build.removal_requests import RemovalRequests
from data_pipeline.build.repeated_paragraphs import (
    groups_to_mark,
    mark_repeated,
    mask_folder,
    paragraph_groups,
    write_hashes,
)
from data_pipeline.build.run_rules import (
    CorpusDocuments,
    RuleFolder,
    rule_folders,
    run_rules,
)
from data_pipeline.dedup.exact import same_text
from data_pipeline.dedup.rule import Removals, Rule
from data_pipeline.document import Source
from data_pipeline.documents_folder import (
    EXAMPLES_SCHEMA,
    IGNORED_SCHEMA,
    MANIFEST_VERSION,
    DropCount,
    Manifest,
    finished_manifest,
    format_counts,
)
from data_pipeline.executors.executor import Executor
from data_pipeline.executors.local import Processes
from data_pipeline.files.atomic import atomic_directory
from data_pipeline.files.inputs import Inputs
from data_pipeline.files.remote import Root
from data_pipeline.sampling import SmallestHashes

ONE_PROCESS = Processes(1)
DISTINCT_TEXTS = (Rule("duplicate", same_text),)
"""Exact deduplication, the first rule of every corpus: a text is kept once, in the first source
that has it."""
REPEATED_PARAGRAPHS = "repeated_paragraphs"
"""Name by which the removal of repeated paragraphs is undone. It changes texts, so this is the only
rule for which parts are rebuilt."""
CLUSTERS = "clusters.json"
"""In the folder of the rules' results: samples of duplicate clusters (`duplicate_samples`)."""
PARTS = ".parts"
RULES = ".rules"
NO_REQUESTS = RemovalRequests()
MEMORY_BUDGET = 4 << 30
_EXAMPLES_PER_REASON = 8


class BuildError(RuntimeError):
    """A reader, an edit or a filter failed on some files; the parts of the others are kept."""


@dataclass(frozen=True)
class _Target:
    """A source, its input files and parts, and the documents folder to publish."""

    source: Source
    found: Inputs
    folder: Path
    parts: list[Part]


def build_corpus(
    sources: Sequence[tuple[Source, Root]],
    out: Path,
    *,
    rules: Sequence[Rule] = DISTINCT_TEXTS,
    undone: Collection[str] = (),
    requests: RemovalRequests = NO_REQUESTS,
    executor: Executor = ONE_PROCESS,
    memory_budget: int = MEMORY_BUDGET,
    part_sizes: PartSizes = PART_SIZES,
    may_be_empty: bool = False,
    found_old: Callable[[OldResults], None] = OldResults.keep,
) -> dict[str, Manifest]:
    """Build the documents folders `out/<source name>` from all files under each (source, root).

    Rules remove documents, except the rules named in `undone`: these run (or their cached results
    are used), but remove nothing. Documents named by removal `requests` are always removed. A
    finished folder that was built from the same files by the same code, thresholds and rules is
    reused, and so is each part of an unfinished or outdated one (cached in `out/.parts`). At the
    end `found_old` is called with the results of other builds that this one did not use.
    `memory_budget` in bytes is for comparing documents; `part_sizes` decide which files share a
    part, and how its documents are spread over files. ValueError if a source has nothing to read
    or, without `may_be_empty`, nothing of it is kept; BuildError if a function of a source failed.
    """
    names = [source.name for source, _ in sources]
    if len(set(names)) < len(names):
        raise ValueError(f"source names {names} must differ from one another")
    if REPEATED_PARAGRAPHS in undone:
        sources = [(replace(s, paragraph_group_bytes=None), root) for s, root in sources]
    targets = [_target(source, root, out / source.name, part_sizes) for source, root in sources]
    choice = _Choice(rules, undone, requests, memory_budget, may_be_empty)
    return _build(targets, out / RULES, choice, executor, found_old)


def build_documents(
    source: Source,
    root: Root,
    out: Path,
    *,
    rules: Sequence[Rule] = DISTINCT_TEXTS,
    executor: Executor = ONE_PROCESS,
    part_sizes: PartSizes = PART_SIZES,
    found_old: Callable[[OldResults], None] = OldResults.keep,
) -> Manifest:
    """As `build_corpus`, of one source, whose documents are published as the folder `out`."""
    choice = _Choice(rules, (), NO_REQUESTS, MEMORY_BUDGET, may_be_empty=False)
    targets = [_target(source, root, out, part_sizes)]
    rules_folder = out.parent / RULES / out.name
    return _build(targets, rules_folder, choice, executor, found_old)[source.name]


@dataclass(frozen=True)
class _Choice:
    """What decides which documents are removed; `build_corpus` describes the fields."""

    rules: Sequence[Rule]
    undone: Collection[str]
    requests: RemovalRequests
    memory_budget: int
    may_be_empty: bool


def _build(
    targets: Sequence[_Target],
    rules_folder: Path,
    choice: _Choice,
    executor: Executor,
    found_old: Callable[[OldResults], None],
) -> dict[str, Manifest]:
    _check_undone(choice.undone, choice.rules)
    steps = rule_folders(choice.rules, [target.parts for target in targets], rules_folder)
    fingerprints = _fingerprints(targets, steps, choice)
    finished = {
        name: manifest
        for target in targets
        if (manifest := _finished(target, fingerprints, choice.may_be_empty)) is not None
        for name in [target.source.name]
    }
    if len(finished) < len(targets):
        for target in targets:
            _build_parts(target.parts, executor, choice.memory_budget)
        documents = CorpusDocuments([target.parts for target in targets])
        found = _found(steps, choice, documents, executor)
        kept_ids = {rule: documents.ids(removals["kept"]) for rule, removals in found.items()}
        for target in targets:
            if target.source.name not in finished:
                removed = [removals_of_part(p, documents, found, kept_ids) for p in target.parts]
                finished[target.source.name] = _publish(
                    target, removed, fingerprints[target.source.name], choice, executor
                )
        rules_folder.mkdir(parents=True, exist_ok=True)
        clusters = sample_clusters(found, kept_ids, documents, choice.requests)
        save_clusters(rules_folder / CLUSTERS, clusters)
    found_old(clean_up([target.parts for target in targets], steps, rules_folder))
    return {target.source.name: finished[target.source.name] for target in targets}


def _check_undone(undone: Collection[str], rules: Sequence[Rule]) -> None:
    names = [rule.name for rule in rules]
    assert len(set(names)) == len(names), f"rule names {names} must differ from one another"
    names.append(REPEATED_PARAGRAPHS)
    for name in undone:
        if name not in names:
            raise ValueError(
                f"{name} is not a rule of this corpus; rules to undo are {', '.join(names)}"
            )


def _target(source: Source, root: Root, out: Path, sizes: PartSizes) -> _Target:
    if isinstance(root, Path) and out.resolve().is_relative_to(root.resolve()):
        raise ValueError(
            f"the output {out} lies inside the corpus {root}, which would then read itself; "
            "put it elsewhere"
        )
    found = source.inputs(root)
    if not found.files:
        counts = format_counts(Counter(item.reason for item in found.ignored))
        advice = "".join(f"; {why}: {words}" for why, words in _advice(found).items())
        raise ValueError(
            f"{root} has nothing that source '{source.name}' reads: {counts} ignored{advice}"
        )
    parts = _parts(source, found, out.parent / PARTS / out.name, sizes)
    return _Target(source, found, out, parts)


def _advice(found: Inputs) -> dict[str, str]:
    """What can be done about files that are not read, per reason; of some reasons."""
    return {item.reason: item.advice for item in found.ignored if item.advice is not None}


def _fingerprints(
    targets: Sequence[_Target], steps: Sequence[RuleFolder], choice: _Choice
) -> dict[str, str]:
    """Fingerprint of each source's documents folder."""
    about = [step.folder.name for step in steps]
    about += [f"undone {sorted(choice.undone)}", *choice.requests.lines()]
    return {
        target.source.name: files_fingerprint(
            (),
            [
                *(part.folder.name for part in target.parts),
                *(f"{item.source_file} {item.reason}" for item in target.found.ignored),
                *about,
            ],
        )
        for target in targets
    }


def _finished(
    target: _Target, fingerprints: Mapping[str, str], may_be_empty: bool
) -> Manifest | None:
    manifest = finished_manifest(target.folder)
    if manifest is None or manifest.fingerprint != fingerprints[target.source.name]:
        return None
    return manifest if manifest.num_kept > 0 or may_be_empty else None


def _found(
    steps: Sequence[RuleFolder], choice: _Choice, documents: CorpusDocuments, executor: Executor
) -> dict[str, Removals]:
    """Removals by each rule that is not undone."""
    results = run_rules(steps, documents, executor=executor, memory_budget=choice.memory_budget)
    pairs = zip(steps, results, strict=True)
    return {step.rule.name: found for step, found in pairs if step.rule.name not in choice.undone}


# -- parts ----------------------------------------------------------------------------------------


def _parts(source: Source, found: Inputs, folder: Path, sizes: PartSizes) -> list[Part]:
    in_files = f"files of {sizes.shard_text_bytes}, row groups of {sizes.batch_bytes}"
    how = files_fingerprint((), [source_fingerprint(source), in_files])
    parts: list[Part] = []
    file_groups = list(groups(found.files, sizes.input_bytes))
    for together in paragraph_groups(file_groups, source.paragraph_group_bytes):
        about = [how]
        if source.paragraph_group_bytes is not None:
            # Which paragraphs are kept depends on all files of the group; masks are by part.
            everything = [file for files in together for file in files]
            lengths = " ".join(str(len(files)) for files in together)
            about.append(files_fingerprint(everything, [how, lengths]))
        for index, files in enumerate(together):
            name = files_fingerprint(files, about)
            # Two levels: a crawl has hundreds of thousands of files.
            mask = None if len(about) == 1 else mask_folder(folder / "marked" / about[1], index)
            parts.append(Part(source, files, folder / name[:2] / name, mask, sizes))
    return parts


@dataclass(frozen=True)
class _Failure:
    part: Part
    trace: str


def _build_parts(parts: Sequence[Part], executor: Executor, memory_budget: int) -> None:
    missing = [part for part in parts if not part.is_whole()]
    if not missing:
        return
    for group in groups_to_mark(parts):
        hash_paragraphs = partial(_try, write_hashes)
        _map_parts(hash_paragraphs, group, "hash paragraphs of", executor)
        mark_repeated(group, executor, memory_budget)
    _map_parts(partial(_try, build_part), missing, "read", executor)


def _map_parts(
    function: Callable[[Part], _Failure | None],
    parts: Sequence[Part],
    verb: str,
    executor: Executor,
) -> None:
    name = parts[0].source.name
    sizes = [part.num_bytes for part in parts]
    results = executor.map(function, parts, sizes, label=f"{verb} {name}")
    failures = [result for result in results if result is not None]
    if failures:
        first = failures[0]
        files = ", ".join(file.source_file for file in first.part.files[:3])
        raise BuildError(
            f"source '{name}' failed on {len(failures)} of {len(parts)} groups of files; the "
            f"others are finished and kept. The first is {files}:\n{first.trace}"
        )


def _try(function: Callable[[Part], None], part: Part) -> _Failure | None:
    """An error in the source's functions fails its part only; a disk error fails the build."""
    try:
        function(part)
    except OSError:
        raise
    except Exception:
        return _Failure(part, traceback.format_exc())
    return None


# -- documents ------------------------------------------------------------------------------------


def _publish(
    target: _Target,
    removals: Sequence[PartRemovals],
    fingerprint: str,
    choice: _Choice,
    executor: Executor,
) -> Manifest:
    """Publish the documents folder."""
    total = Published()
    with atomic_directory(target.folder) as folder:
        tasks = [
            Publication(part, index, folder, removed, choice.requests)
            for index, (part, removed) in enumerate(zip(target.parts, removals, strict=True))
        ]
        sizes = [part.num_bytes for part in target.parts]
        label = f"publish {target.source.name}"
        for published in executor.map(publish_part, tasks, sizes, label=label):
            total.add(published)
        inputs = pa.concat_tables([pq.read_table(part.inputs) for part in target.parts])
        manifest = _summary(target, total, inputs, fingerprint)
        if manifest.num_kept == 0 and not choice.may_be_empty:
            raise ValueError(
                f"no document of {target.source.name} was kept: {_why_nothing(target, total)}"
            )
        ignored = [asdict(item) for item in target.found.ignored]
        for name, table in (
            ("inputs", inputs),
            ("ignored", pa.Table.from_pylist(ignored, IGNORED_SCHEMA)),
            ("examples", _examples(target.parts, choice.requests)),
            ("samples", samples(folder, total.samples)),
        ):
            pq.write_table(table, folder / f"{name}.parquet", compression="zstd")
        (folder / "manifest.json").write_bytes(manifest.to_json())
    return manifest


def _examples(parts: Sequence[Part], requests: RemovalRequests) -> pa.Table:
    """A few dropped texts per reason, sampled by hash from the parts' own, without those under a
    removal request."""
    chosen: dict[tuple[str, str], SmallestHashes[dict[str, object]]] = {}
    for part in parts:
        for row in pq.read_table(part.examples).to_pylist():
            if row["id"] in requests.ids:
                continue
            reason = chosen.setdefault(
                (row["stage"], row["reason"]), SmallestHashes(_EXAMPLES_PER_REASON, seed=0)
            )
            reason.add(f"{row['source_file']}:{row['offset']}", row)
    rows = [row for _, found in sorted(chosen.items()) for row in found.items()]
    return pa.Table.from_pylist(rows, EXAMPLES_SCHEMA)


def _summary(target: _Target, total: Published, inputs: pa.Table, fingerprint: str) -> Manifest:
    code = code_behind(functions_of(target.source))
    return Manifest(
        version=MANIFEST_VERSION,
        source=target.source.name,
        fingerprint=fingerprint,
        versions={
            "llama-ds": importlib.metadata.version("llama-ds"),
            "python": platform.python_version(),
            **dict(sorted(package_versions(code).items())),
        },
        num_input_files=len(target.found.files),
        num_input_bytes=sum(file.size for file in target.found.files),
        num_read=total.counts.num_documents + total.drops.total(),
        num_read_bytes=pc.sum(inputs.column("num_text_bytes")).as_py(),
        num_paragraphs_removed=pc.sum(inputs.column("num_paragraphs_removed")).as_py(),
        num_paragraph_characters_removed=pc.sum(
            inputs.column("num_paragraph_characters_removed")
        ).as_py(),
        drops=tuple(
            DropCount(stage, reason, count, total.drop_bytes[stage, reason])
            for (stage, reason), count in sorted(total.drops.items())
        ),
        ignored=dict(sorted(Counter(item.reason for item in target.found.ignored).items())),
        advice=_advice(target.found),
        files=tuple(total.files),
        **total.counts.manifest_fields(),
    )


def _why_nothing(target: _Target, total: Published) -> str:
    """Drops per reason, and the first of them."""
    rows = (row for p in target.parts for row in pq.read_table(p.dropped).slice(0, 1).to_pylist())
    first = next(rows, None)
    counts = Counter({reason: n for (_, reason), n in total.drops.items()})
    if first is None:
        return format_counts(counts)
    detail = f"{first['source_file']}: {first['detail'] or first['reason']}"
    return f"{format_counts(counts)} (first: {detail})"
