"""Builds a dataset: cost estimate, documents, tokenizer, token store, report."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_pipeline.build import costs
from data_pipeline.build.build_corpus import PARTS, RULES, build_corpus
from data_pipeline.build.old_results import OldResults, num_bytes
from data_pipeline.build.removal_requests import RemovalRequests
from data_pipeline.commands.build_account import TokenizerOrigin, account_of
from data_pipeline.commands.decontaminate import decontaminated
from data_pipeline.commands.inspect import show
from data_pipeline.commands.options import BuildOptions, Decontamination, TokenizerOptions
from data_pipeline.corpus import Corpus
from data_pipeline.documents_folder import Manifest
from data_pipeline.executors.timed import TimedExecutor
from data_pipeline.files.atomic import write_atomic
from data_pipeline.files.folder_lock import FolderLock
from data_pipeline.filters.decontamination import IndexAccount
from data_pipeline.release.dataset_card import write_card
from data_pipeline.release.hub import push_to_hub
from data_pipeline.release.hub_login import require_login
from data_pipeline.release.upload import publish_copy, require_place
from data_pipeline.removal.dataset import REQUESTS
from data_pipeline.report import page as report_page
from data_pipeline.report import table as report
from data_pipeline.report.formatting import size
from data_pipeline.tokens.store import StoreManifest
from data_pipeline.tokens.store_building import build_store
from data_pipeline.tokens.tokenizer_folder import tokenizer_folder
from data_pipeline.tokens.tokenizer_training import TokenizerConfig, train_tokenizer

LOCK_FILE = "build.lock"


def build_or_inspect(corpus: Corpus, options: BuildOptions, *, program: str) -> int:
    """Build the corpus, or inspect its finished build; returns the exit code.

    `program`: name of the command line, for the suggested next commands. ValueError for options
    that the corpus or its files do not allow.
    """
    corpus = options.steps.added_to(corpus.with_rules(options.deduplication.rules(corpus)))
    if options.follow_links:
        corpus = corpus.with_links_followed()
    looked_at = options.inspection
    if looked_at.inspect is None:
        return _build(corpus, options, program)
    show(
        corpus,
        options.out,
        looked_at.inspect,
        reason=looked_at.reason,
        edits=looked_at.edits,
        limit=looked_at.limit,
    )
    return 0


def _build(corpus: Corpus, options: BuildOptions, program: str) -> int:
    _check_folders(corpus, options.sources)
    if options.publish is not None:
        require_place(options.publish)
    if options.push_to_hub is not None:
        require_login(options.push_to_hub)
    with FolderLock(options.out / LOCK_FILE, "give this one another --out"):
        return _build_alone(corpus, options, program)


def _build_alone(corpus: Corpus, options: BuildOptions, program: str) -> int:
    out, jobs = options.out, options.executor.jobs
    corpus = corpus.only(options.sources) if options.sources else corpus
    given = None if options.documents_only else _given_tokenizer(options.tokenizer, out)
    corpus, evaluations = _compared_with(corpus, options.decontaminate, out / "evaluations.npz")
    for what, steps in (("left out", corpus.left_out), ("added", corpus.added)):
        for step in steps:
            print(f"{what}: {step}", file=sys.stderr)
    trains = given is None and not options.documents_only
    predicted = _predicted(
        corpus,
        jobs=jobs,
        memory_budget=options.memory_bytes,
        tokenizer_sample_bytes=options.tokenizer.sample_bytes if trains else 0,
        documents_only=options.documents_only,
    )
    print("estimated cost of a build from scratch:")
    print(costs.as_text(predicted, jobs=jobs), flush=True)
    with options.executor.started(out) as executor:
        built = _run_stages(corpus, options, given, evaluations, TimedExecutor(executor))
    deviations = costs.compare(predicted, built.core_seconds, built.peak_bytes, _disk(out, built))
    print("\ncost, estimated and measured (measured is less where a build resumed):")
    print(costs.deviations_as_text(deviations))
    account = account_of(
        corpus,
        out / "documents",
        built.manifests,
        undone=options.undo,
        evaluations=evaluations,
        store=built.store,
        tokenizer=built.tokenizer,
        predicted=predicted,
        deviations=deviations,
    )
    write_atomic(out / "report.json", account.to_json())
    report_page.write(account, out / "report.html")
    write_card(account, out / "documents")
    print(_next_steps(out, built.store, corpus, program))
    _release(out, publish=options.publish, repository=options.push_to_hub, public=options.public)
    for line in _old_results(out / "documents", built.old):
        print(line)
    empty = [name for name, manifest in built.manifests.items() if manifest.num_kept == 0]
    if empty:
        print(f"no document was kept of: {', '.join(empty)} (reasons above)", file=sys.stderr)
    return 1 if empty else 0


@dataclass
class _Built:
    """Results of the stages."""

    manifests: dict[str, Manifest]
    old: list[OldResults]
    """Results of earlier builds that this one did not use, and kept."""
    store: StoreManifest | None = None
    tokenizer: TokenizerOrigin | None = None
    """Origin of the store's tokenizer."""
    core_seconds: dict[str, float] = field(default_factory=dict)
    """Per stage of `costs`."""
    peak_bytes: dict[str, int] = field(default_factory=dict)
    """Most memory of one process, per stage of `costs`."""


def _run_stages(
    corpus: Corpus,
    options: BuildOptions,
    given: Path | None,
    evaluations: IndexAccount | None,
    executor: TimedExecutor,
) -> _Built:
    """Build documents and, unless `documents_only`, tokenizer and store. `given`: folder of an
    existing tokenizer; None trains one."""
    out = options.out
    old: list[OldResults] = []
    manifests = build_corpus(
        corpus.sources,
        out / "documents",
        rules=corpus.rules,
        undone=options.undo,
        requests=RemovalRequests.load(out / REQUESTS),
        executor=executor,
        memory_budget=options.memory_bytes // options.executor.jobs,
        may_be_empty=True,
        found_old=OldResults.forget if options.forget_old_parts else old.append,
    )
    print(report.table(manifests, corpus.left_out, evaluations))
    built = _Built(manifests, old)
    if not options.documents_only:
        documents = {n: out / "documents" / n for n, m in manifests.items() if m.num_kept > 0}
        if given is None or options.tokenizer.path is None:
            tokenizer, shares = out / "tokenizer", corpus.shares_of(list(documents))
            _train_tokenizer(options.tokenizer, documents, tokenizer, shares, executor)
            built.tokenizer = TokenizerOrigin.trained(options.tokenizer.sample_bytes)
        else:
            tokenizer = given
            built.tokenizer = TokenizerOrigin.given(given, options.tokenizer.path)
        built.store = build_store(
            out / "store", documents, tokenizer, holdout_share=options.holdout, executor=executor
        )
    for label, seconds in executor.core_seconds.items():
        stage = costs.stage_of(label)
        built.core_seconds[stage] = built.core_seconds.get(stage, 0.0) + seconds
    for label, peak in executor.peak_bytes.items():
        stage = costs.stage_of(label)
        built.peak_bytes[stage] = max(peak, built.peak_bytes.get(stage, 0))
    return built


def _disk(out: Path, built: _Built) -> dict[str, int]:
    """Bytes on disk that stages wrote, without what earlier builds left."""
    documents = [out / "documents" / name for name in built.manifests]
    parts = num_bytes([out / "documents" / PARTS]) - sum(num_bytes(old.parts) for old in built.old)
    published = num_bytes(documents)
    store = {} if built.store is None else {costs.TOKENIZE: num_bytes([out / "store"])}
    return {costs.READ: parts, costs.PUBLISH: published, **store}


# -- the corpus -----------------------------------------------------------------------------------


def _check_folders(corpus: Corpus, wanted: Sequence[str]) -> None:
    """ValueError for an unknown source in `wanted`, or a source without raw files."""
    names = [source.name for source, _ in corpus.sources]
    for name in wanted:
        if name not in names:
            raise ValueError(f"--sources: unknown source {name}; the corpus has {', '.join(names)}")
    missing = [
        str(root)
        for source, root in corpus.sources
        if source.name in (wanted or names) and not root.exists()
    ]
    if missing:
        others = ", or name the sources to build with --sources" if len(names) > 1 else ""
        raise ValueError(f"--raw: there is no {', '.join(missing)}; put the files there{others}")


def _compared_with(
    corpus: Corpus, wanted: Decontamination, index: Path
) -> tuple[Corpus, IndexAccount | None]:
    """The corpus with decontamination, if enabled, and statistics of the evaluation sets."""
    if wanted.sets is None:
        return corpus, None
    return decontaminated(
        corpus,
        wanted.sets,
        index,
        words=wanted.words,
        passages=wanted.passages,
        action="flag" if wanted.flag_only else "drop",
    )


def _predicted(
    corpus: Corpus,
    *,
    jobs: int,
    memory_budget: int,
    tokenizer_sample_bytes: int,
    documents_only: bool,
) -> list[costs.StageCost]:
    """Cost estimate of a build from scratch."""
    sizes = Counter[str]()
    for source, root in corpus.sources:
        for file in source.inputs(root).files:
            sizes[costs.kind_of(source.name, file.source_file)] += file.size
    extra: dict[str, list[str]] = {}
    for source, _ in corpus.sources:
        kinds = [kind for kind in sizes if kind.startswith(source.name)]
        if source.paragraph_group_bytes is not None:
            extra.setdefault(costs.PARAGRAPHS, []).extend(kinds)
        for rule in corpus.rules:
            if rule.sources is None or source.name in rule.sources:
                extra.setdefault(rule.name, []).extend(kinds)
    stages = {costs.PARAGRAPHS, costs.BOOK_OVERLAP, costs.NEAR_DUPLICATES}
    predicted = costs.predict(
        sizes,
        jobs=jobs,
        memory_budget=memory_budget,
        extra={stage: kinds for stage, kinds in extra.items() if stage in stages and kinds},
        tokenizer_sample_bytes=tokenizer_sample_bytes,
    )
    if documents_only:
        return [cost for cost in predicted if cost.stage != costs.TOKENIZE]
    return predicted


# -- tokens ---------------------------------------------------------------------------------------


def _given_tokenizer(chosen: TokenizerOptions, out: Path) -> Path | None:
    """Folder of the tokenizer that the options name, validated before anything is built; None where
    one is to be trained."""
    if chosen.path is not None:
        return tokenizer_folder(
            chosen.path, out / "tokenizer", bos_token=chosen.bos_token, eos_token=chosen.eos_token
        )
    if chosen.bos_token is not None or chosen.eos_token is not None:
        raise ValueError(
            "--tokenizer.bos-token and --tokenizer.eos-token name tokens of the tokenizer that "
            "--tokenizer.path names; a new one has its own"
        )
    return None


def _train_tokenizer(
    chosen: TokenizerOptions,
    documents: Mapping[str, Path],
    out: Path,
    shares: Mapping[str, float] | None,
    executor: TimedExecutor,
) -> None:
    config = TokenizerConfig(
        vocab_size=chosen.vocab_size,
        method=chosen.method,
        sample_bytes=chosen.sample_bytes,
        seed=chosen.seed,
    )
    with executor.phase(costs.TRAIN_TOKENIZER):
        train_tokenizer(documents, out, config, shares=shares, executor=executor)


# -- after the build ------------------------------------------------------------------------------


def _next_steps(out: Path, store: StoreManifest | None, corpus: Corpus, program: str) -> str:
    lines = [
        f"\nreport:    {out}/report.html (numbers: report.json)",
        f"documents: {out}/documents (dataset card: README.md)",
    ]
    if store is not None:
        shares = corpus.shares_of(list(store.sources)) or {}
        words = " ".join(f"{name} {share}" for name, share in shares.items())
        train = (
            f"train:     bash recipes/pretrain_tiny.sh --data.store {out}/store \\\n"
            f"             --model.vocab-size {store.vocab_size}"
        )
        lines += [
            f"store:     {out}/store",
            f"plan:      {program} plan --store {out}/store --tokens 20B",
            train + (f" --data.shares {words}" if words else ""),
        ]
    return "\n".join(lines)


def _release(out: Path, *, publish: str | None, repository: str | None, public: bool) -> None:
    if publish is not None:
        print(f"copied:    {publish_copy(out, publish)}")
    if repository is not None:
        address = push_to_hub(out / "documents", repository, private=not public)
        print(f"pushed:    {address}")


def _old_results(documents: Path, found: Sequence[OldResults]) -> Iterator[str]:
    for old in found:
        for what, folders, place in (("part", old.parts, PARTS), ("rule result", old.rules, RULES)):
            if folders:
                yield (
                    f"{len(folders):,} old {what}{'s' * (len(folders) > 1)}, "
                    f"{size(num_bytes(folders))}, in {documents}/{place}; "
                    "--forget-old-parts removes them"
                )
