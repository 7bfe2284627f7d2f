"""The dataset job: the public sources' raw files -> clean documents, every drop accounted for.

    RAW/<source>/  ->  OUT/documents/<source>/  and  OUT/report.json

Every finished group of input files is kept, so the same command continues after an interruption
and does nothing twice.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

import tyro

from data_pipeline import report
from data_pipeline.document import Document, Rejected, Source
from data_pipeline.inspection import RawDocuments, difference, drops, kept, steps
from data_pipeline.pipeline import BuildError, build_corpus
from data_pipeline.publish import write_atomic
from data_pipeline.workers import Processes
from recipes.corpus import Corpus
from recipes.crawl_models import TrainPerplexity, TrainReferences
from recipes.decontamination import decontaminated
from recipes.launch import bad_input, errors_in_one_line
from recipes.llama1_corpus import CrawlModels, llama1_corpus

SHOWN_LINES = 40
TRAINING_JOBS: dict[str, type[TrainPerplexity | TrainReferences]] = {
    "train-perplexity": TrainPerplexity,
    "train-references": TrainReferences,
}


@dataclass(frozen=True)
class BuildDataset:
    """Build clean documents from the raw files of the public sources."""

    raw: Path
    """Folder that holds one folder per source, with its files as they are published."""
    out: Path
    """Everything is written here; an earlier build in it is continued."""
    corpus: Literal["llama1"] = "llama1"
    """Which sources, with which thresholds: recipes/llama1_corpus.py."""
    sources: tuple[str, ...] = ()
    """Build these only; by default all of the corpus."""
    models: CrawlModels = field(default_factory=CrawlModels)
    decontaminate: Path | None = None
    """Folder of evaluation sets as published (JSON lines, JSON, CSV, Parquet): documents that have
    their items are dropped. By default none are, as in the paper."""
    decontaminate_words: int = 13
    """How many consecutive words a document and an item must share. GPT-3: 13."""
    decontaminate_passages: bool = False
    """Also look for passages that a set took from elsewhere, such as BoolQ's from Wikipedia."""
    decontaminate_flag_only: bool = False
    """Keep the documents, and say in their column `contamination` what they have."""
    jobs: Annotated[int, tyro.conf.arg(help="Processes.")] = os.cpu_count() or 1
    inspect: str | None = None
    """In place of building, show documents of this source that a finished build dropped."""
    reason: str | None = None
    """With --inspect: those dropped for this reason; by default for any."""
    edits: bool = False
    """With --inspect: what the edits did to documents that were kept, in place of dropped ones."""
    limit: int = 5
    """With --inspect: at most this many."""


def main() -> None:
    try:
        code = run(sys.argv[1:])
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except (ValueError, OSError) as error:
        code = bad_input(error)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        code = 130
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """What the command line asks for; the exit code."""
    job = TRAINING_JOBS.get(arguments[0]) if arguments else None
    with errors_in_one_line():
        if job is not None:
            prog = f"build_dataset.sh {arguments[0]}"
            training: TrainPerplexity | TrainReferences = tyro.cli(
                job, args=arguments[1:], prog=prog
            )
        else:
            options = tyro.cli(BuildDataset, args=arguments, prog="build_dataset.sh")
    if job is not None:
        print(training.run())
        return 0
    return show(options) if options.inspect else build(options)


def build(options: BuildDataset) -> int:
    corpus = chosen_corpus(options)
    evaluations = None
    if options.decontaminate is not None:
        corpus, evaluations = decontaminated(
            corpus,
            options.decontaminate,
            options.out / "evaluations.npz",
            words=options.decontaminate_words,
            passages=options.decontaminate_passages,
            action="flag" if options.decontaminate_flag_only else "drop",
        )
    for step in corpus.left_out:
        print(f"left out: {step}", file=sys.stderr)
    try:
        manifests = build_corpus(
            corpus.sources,
            options.out / "documents",
            rules=corpus.rules,
            engine=Processes(options.jobs),
            may_be_empty=True,
        )
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    numbers = json.dumps(report.as_json(manifests, corpus.left_out, evaluations), indent=2)
    write_atomic(options.out / "report.json", numbers.encode() + b"\n")
    print(report.table(manifests, corpus.left_out, evaluations))
    print(f"documents: {options.out}/documents, the numbers above: {options.out}/report.json")
    empty = [name for name, manifest in manifests.items() if manifest.num_kept == 0]
    if empty:
        print(f"no document was kept of: {', '.join(empty)} (reasons above)", file=sys.stderr)
    return 1 if empty else 0


def chosen_corpus(options: BuildDataset) -> Corpus:
    """The corpus with the sources asked for; ValueError where one has no raw files."""
    corpus = llama1_corpus(options.raw, options.models)
    names = [source.name for source, _ in corpus.sources]
    for name in options.sources:
        if name not in names:
            raise ValueError(f"--sources: {name} is none of {', '.join(names)}")
    missing = [
        source.name
        for source, root in corpus.sources
        if source.name in (options.sources or names) and not root.exists()
    ]
    if missing:
        raise ValueError(
            f"--raw {options.raw} has no folder {', '.join(missing)}; put the files there, or name "
            "the sources to build with --sources"
        )
    return corpus.only(options.sources) if options.sources else corpus


# -- inspecting -----------------------------------------------------------------------------------


def show(options: BuildDataset) -> int:
    corpus = llama1_corpus(options.raw, options.models)
    for source, root in corpus.sources:
        if source.name == options.inspect:
            folder = options.out / "documents" / source.name
            if options.edits:
                found = _edits(source, root, folder)
            else:
                found = _dropped(source, root, folder, options.reason)
            for text in islice(found, options.limit):
                print(text, end="\n\n")
            return 0
    names = ", ".join(source.name for source, _ in corpus.sources)
    raise ValueError(f"--inspect: {options.inspect} is none of {names}")


def _dropped(source: Source, root: Path, folder: Path, reason: str | None) -> Iterator[str]:
    """Dropped documents with the beginning of their text as the last edit left it."""
    raw_documents = RawDocuments(source, root)
    for drop in drops(folder, reason):
        place = drop.source_file if drop.offset is None else f"{drop.source_file}:{drop.offset}"
        heading = f"== {drop.reason}  {place}" + (f"  ({drop.why})" if drop.why else "")
        item = raw_documents.at(drop.source_file, drop.offset)
        if item is None:
            yield f"{heading}\n(no longer among the raw files)"
        elif isinstance(item, Rejected):
            yield heading
        else:
            done, _ = steps(source, item)
            yield f"{heading}\n{_about(item)}{_beginning(done[-1].after if done else item.text)}"


def _edits(source: Source, root: Path, folder: Path) -> Iterator[str]:
    """Kept documents with what each edit changed."""
    raw_documents = RawDocuments(source, root)
    for source_file, offset in kept(folder):
        item = raw_documents.at(source_file, offset)
        if not isinstance(item, Document):
            continue
        done, _ = steps(source, item)
        parts = [f"== {source_file}" + ("" if offset is None else f":{offset}"), _about(item)]
        for step in done:
            changed = step.before != step.after
            parts.append(f"-- {step.edit}" + ("" if changed else ": nothing changed"))
            if changed:
                parts.append(difference(step, max_lines=SHOWN_LINES))
        yield "\n".join(part for part in parts if part)


def _about(document: Document) -> str:
    known = (document.title, document.url, document.language, document.licence)
    line = "  ".join(value for value in known if value)
    return f"{line}\n" if line else ""


def _beginning(text: str) -> str:
    lines: Sequence[str] = text.splitlines()
    rest = len(lines) - SHOWN_LINES
    shown = [f"    {line[:200]}" for line in lines[:SHOWN_LINES]]
    return "\n".join(shown + ([f"    ... {rest} more lines"] if rest > 0 else []))


if __name__ == "__main__":
    main()
