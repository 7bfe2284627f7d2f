"""Runs a corpus's deduplication rules over the documents of all parts, one after another.

Each rule sees the documents that earlier rules kept. Its result is cached under its fingerprint, so
that a resumed build, or one without a rule (--undo), reuses it.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import xxhash

from data_pipeline.build.fingerprint import code_fingerprint
from data_pipeline.build.parts import Part, keys_beside
from data_pipeline.dedup.rule import REMOVAL_DTYPE, Comparison, DocumentFile, Removals, Rule
from data_pipeline.executors.executor import Executor
from data_pipeline.files.atomic import atomic_directory


class CorpusDocuments:
    """The documents of all parts of all sources, numbered in order."""

    def __init__(self, sources: Sequence[Sequence[Part]]) -> None:
        self.sources = [parts[0].source.name for parts in sources]
        self.files: list[DocumentFile] = []
        self.bounds = [0]
        self._numbers: dict[Path, range] = {}
        for index, parts in enumerate(sources):
            for part in parts:
                first = self.bounds[-1]
                for path in part.documents:
                    rows = pq.read_metadata(path).num_rows
                    file = DocumentFile(path, rows, keys=keys_beside(path), source=index)
                    self.files.append(file)
                    self.bounds.append(self.bounds[-1] + rows)
                self._numbers[part.folder] = range(first, self.bounds[-1])

    def numbers(self, part: Part) -> range:
        """The numbers of a part's documents."""
        return self._numbers[part.folder]

    def places(self, numbers: npt.NDArray[np.int64]) -> list[tuple[DocumentFile, int]]:
        """File and row index of each document."""
        files = np.searchsorted(self.bounds, numbers, "right") - 1
        return [
            (self.files[file], int(number) - self.bounds[file])
            for file, number in zip(files.tolist(), numbers.tolist(), strict=True)
        ]

    def source_indices(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """For each document the index of its source in `sources`."""
        of_file = np.array([file.source for file in self.files], np.int64)
        sources: npt.NDArray[np.int64] = of_file[np.searchsorted(self.bounds, numbers, "right") - 1]
        return sources

    def ids(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.bytes_]:
        """Content ids (16 bytes each) of some documents, read file by file."""
        order = np.argsort(numbers, kind="stable")
        result = np.empty(len(numbers), "S16")
        ends = np.searchsorted(numbers[order], self.bounds[1:])
        start = 0
        for file, first, end in zip(self.files, self.bounds, ends.tolist(), strict=False):
            if end > start:
                assert file.keys is not None, f"{file.path} has no keys"
                ids = np.load(file.keys, mmap_mode="r")["id"]
                result[order[start:end]] = ids[numbers[order[start:end]] - first]
            start = end
        return result


@dataclass(frozen=True)
class RuleFolder:
    """Cache entry of one rule's result."""

    rule: Rule
    folder: Path

    @property
    def removals(self) -> Path:
        return self.folder / "removals.npy"


def rule_folders(
    rules: Sequence[Rule], sources: Sequence[Sequence[Part]], folder: Path
) -> list[RuleFolder]:
    """A folder for each rule, named by a fingerprint of the parts, the rule and the rules before
    it."""
    digest = xxhash.xxh3_128()
    for parts in sources:
        lines = [f"source {parts[0].source.name}", *(part.folder.name for part in parts)]
        digest.update("\0".join(lines).encode())
    result = []
    for rule in rules:
        about = f"{rule.name} {sorted(rule.sources or ())} {rule.within_source}"
        digest.update(f"{about} {code_fingerprint([], [rule.find, run_rules])}".encode())
        result.append(RuleFolder(rule, folder / f"{rule.name}-{digest.hexdigest()}"))
    return result


def run_rules(
    rules: Sequence[RuleFolder],
    documents: CorpusDocuments,
    *,
    executor: Executor,
    memory_budget: int,
) -> list[Removals]:
    """Removals by each rule, from the cache or computed now and cached."""
    keep = np.ones(documents.bounds[-1], np.bool_)
    results = []
    for step in rules:
        if not step.folder.exists():
            _run(step, documents, keep, executor, memory_budget)
        found: Removals = np.load(step.removals)
        assert keep[found["removed"]].all(), f"{step.rule.name} removes documents twice"
        keep[found["removed"]] = False
        results.append(found)
    return results


def _run(
    step: RuleFolder,
    documents: CorpusDocuments,
    keep: npt.NDArray[np.bool_],
    executor: Executor,
    memory_budget: int,
) -> None:
    """Run a rule on its sources, together or within each source."""
    chosen = [
        index
        for index, name in enumerate(documents.sources)
        if step.rule.sources is None or name in step.rule.sources
    ]
    groups = [[index] for index in chosen] if step.rule.within_source else [chosen]
    with atomic_directory(step.folder) as folder:
        found = []
        for group in groups:
            members = [i for i, file in enumerate(documents.files) if file.source in group]
            if not members:
                continue
            files = [
                replace(
                    documents.files[i], keep=keep[documents.bounds[i] : documents.bounds[i + 1]]
                )
                for i in members
            ]
            work = folder / "work"
            work.mkdir()
            comparison = Comparison(files, executor, memory_budget, work)
            removals = step.rule.find(comparison)
            firsts = np.array([documents.bounds[i] for i in members])
            found.append(_renumbered(removals, np.array(comparison.bounds()[:-1]), firsts))
            shutil.rmtree(work)
        all_found = np.concatenate(found) if found else np.empty(0, REMOVAL_DTYPE)
        np.save(folder / "removals.npy", np.sort(all_found, order="removed"))


def _renumbered(
    removals: Removals, own: npt.NDArray[np.int64], corpus: npt.NDArray[np.int64]
) -> Removals:
    """Map document numbers of a comparison to those of the corpus; `own` and `corpus` are the
    numbers of each file's first document."""
    result = removals.copy()
    for field in ("removed", "kept"):
        file = np.searchsorted(own, removals[field], "right") - 1
        result[field] += corpus[file] - own[file]
    return result
