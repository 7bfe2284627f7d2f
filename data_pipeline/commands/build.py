"""The dataset job, step by step: cost, documents, tokenizer, token store, report."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from data_pipeline.build import costs
from data_pipeline.build.build_corpus import PARTS, RULES, build_corpus
from data_pipeline.build.old_results import OldResults, num_bytes
from data_pipeline.build.removal_requests import RemovalRequests
from data_pipeline.commands.build_account import account_of
from data_pipeline.commands.decontaminate import decontaminated
from data_pipeline.commands.options import BuildDataset
from data_pipeline.documents_folder import Manifest
from data_pipeline.executors.timed import TimedExecutor
from data_pipeline.files.atomic import write_atomic
from data_pipeline.files.remote import root_of
from data_pipeline.filters.decontamination import IndexAccount
from data_pipeline.release.dataset_card import write_card
from data_pipeline.release.hub import push_to_hub
from data_pipeline.release.upload import publish_copy
from data_pipeline.removal.dataset import REQUESTS
from data_pipeline.report import page as report_page
from data_pipeline.report import table as report
from data_pipeline.report.formatting import size
from data_pipeline.tokens.store import StoreManifest
from data_pipeline.tokens.store_building import build_store
from data_pipeline.tokens.tokenizer_folder import export_tokenizer
from data_pipeline.tokens.tokenizer_training import TokenizerConfig, train_tokenizer
from recipes.llama import LLAMA1_SHARES
from recipes.llama1_corpus import llama1_corpus
from recipes.small_corpora import Corpus


def build(options: BuildDataset) -> int:
    """All that the options ask for; the exit code."""
    corpus, evaluations = _corpus(options)
    for step in corpus.left_out:
        print(f"left out: {step}", file=sys.stderr)
    predicted = _predicted(options, corpus)
    print("predicted for a build from nothing:")
    print(costs.as_text(predicted, jobs=options.executor.jobs), flush=True)
    store: StoreManifest | None = None
    old: list[OldResults] = []
    with options.executor.started(options.out) as plain_executor:
        executor = TimedExecutor(plain_executor)
        manifests = build_corpus(
            corpus.sources,
            options.out / "documents",
            rules=corpus.rules,
            undone=options.undo,
            requests=RemovalRequests.load(options.out / REQUESTS),
            executor=executor,
            memory_budget=int(options.memory_gib * (1 << 30)) // options.executor.jobs,
            may_be_empty=True,
            found_old=OldResults.forget if options.forget_old_parts else old.append,
        )
        print(report.table(manifests, corpus.left_out, evaluations))
        empty = [name for name, manifest in manifests.items() if manifest.num_kept == 0]
        if not options.documents_only:
            kept = {name: m for name, m in manifests.items() if m.num_kept > 0}
            tokenizer = _tokenizer(options, kept, executor)
            store = build_store(
                options.out / "store",
                {name: options.out / "documents" / name for name in kept},
                tokenizer,
                holdout_share=options.holdout,
                executor=executor,
            )
    measured: dict[str, float] = {}
    for label, seconds in executor.core_seconds.items():
        stage = costs.stage_of(label)
        measured[stage] = measured.get(stage, 0.0) + seconds
    deviations = costs.compare(predicted, measured)
    print("\ncost, as predicted and as it was (less where a build continues):")
    print(costs.deviations_as_text(deviations))
    account = account_of(options, corpus, manifests, evaluations, store, predicted, deviations)
    write_atomic(options.out / "report.json", account.to_json())
    report_page.write(account, options.out / "report.html")
    write_card(account, options.out / "documents")
    print(_next_steps(options, store))
    if options.publish is not None:
        print(f"copied:    {publish_copy(options.out, options.publish)}")
    if options.push_to_hub is not None:
        address = push_to_hub(
            options.out / "documents", options.push_to_hub, private=not options.public
        )
        print(f"pushed:    {address}")
    for line in _old_results(options, old):
        print(line)
    if empty:
        print(f"no document was kept of: {', '.join(empty)} (reasons above)", file=sys.stderr)
    return 1 if empty else 0


def _old_results(options: BuildDataset, found: Sequence[OldResults]) -> Iterator[str]:
    for old in found:
        for what, folders, place in (("part", old.parts, PARTS), ("rule result", old.rules, RULES)):
            if folders:
                yield (
                    f"{len(folders):,} old {what}{'s' * (len(folders) > 1)}, "
                    f"{size(num_bytes(folders))}, in {options.out}/documents/{place}; "
                    "--forget-old-parts removes them"
                )


# -- the corpus -----------------------------------------------------------------------------------


def _corpus(options: BuildDataset) -> tuple[Corpus, IndexAccount | None]:
    """The corpus with the sources asked for, and what it is compared with."""
    corpus = _chosen(options)
    wanted = options.decontaminate
    if wanted.sets is None:
        return corpus, None
    return decontaminated(
        corpus,
        wanted.sets,
        options.out / "evaluations.npz",
        words=wanted.words,
        passages=wanted.passages,
        action="flag" if wanted.flag_only else "drop",
    )


def _chosen(options: BuildDataset) -> Corpus:
    """ValueError where a source that is asked for has no raw files."""
    corpus = llama1_corpus(root_of(options.raw), options.models, options.deduplication)
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


def _predicted(options: BuildDataset, corpus: Corpus) -> list[costs.StageCost]:
    """What a build from nothing costs."""
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
    trains = options.tokenizer.path is None and not options.documents_only
    predicted = costs.predict(
        sizes,
        jobs=options.executor.jobs,
        memory_budget=int(options.memory_gib * (1 << 30)),
        extra={stage: kinds for stage, kinds in extra.items() if stage in stages and kinds},
        tokenizer_sample_bytes=options.tokenizer.sample_bytes if trains else 0,
    )
    if options.documents_only:
        return [cost for cost in predicted if cost.stage != costs.TOKENIZE]
    return predicted


# -- tokens ---------------------------------------------------------------------------------------


def _tokenizer(
    options: BuildDataset, manifests: Mapping[str, Manifest], executor: TimedExecutor
) -> Path:
    """The folder of the tokenizer that was named, or of one that is trained on the documents."""
    chosen, out = options.tokenizer, options.out / "tokenizer"
    if chosen.path is not None and chosen.path.is_dir():
        return chosen.path
    if chosen.path is not None:
        if not _is_export_of(chosen.path, out):
            export_tokenizer(chosen.path, out)
        return out
    config = TokenizerConfig(
        vocab_size=chosen.vocab_size,
        method=chosen.method,
        sample_bytes=chosen.sample_bytes,
        seed=chosen.seed,
    )
    documents = {name: options.out / "documents" / name for name in manifests}
    with executor.phase(costs.TRAIN_TOKENIZER):
        train_tokenizer(documents, out, config, shares=_shares(manifests), executor=executor)
    return out


def _is_export_of(model: Path, folder: Path) -> bool:
    own = folder / "tokenizer.model"
    if not own.exists() or not (folder / "manifest.json").exists():
        return False
    return hashlib.sha256(own.read_bytes()).digest() == hashlib.sha256(model.read_bytes()).digest()


def _shares(names: Mapping[str, object]) -> dict[str, float]:
    """The paper's, of the sources there are."""
    return {name: LLAMA1_SHARES[name] for name in names}


def _next_steps(options: BuildDataset, store: StoreManifest | None) -> str:
    out = options.out
    lines = [
        f"\nreport:    {out}/report.html (numbers: report.json)",
        f"documents: {out}/documents (dataset card: README.md)",
    ]
    if store is not None:
        words = " ".join(f"{name} {share}" for name, share in _shares(store.sources).items())
        lines += [
            f"store:     {out}/store",
            f"plan:      bash recipes/build_dataset.sh plan --store {out}/store --tokens 20B",
            f"train:     bash recipes/pretrain_tiny.sh --data.store {out}/store \\",
            f"             --model.vocab-size {store.vocab_size} --data.shares {words}",
        ]
    return "\n".join(lines)
