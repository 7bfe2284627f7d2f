"""Builds LLaMA's dataset from the public sources: clean documents, token store and report.

    RAW/<source>/  ->  OUT/documents/<source>/  ->  OUT/tokenizer/  ->  OUT/store/
                       OUT/documents/README.md (dataset card), OUT/report.html, OUT/report.json

Finished groups of files are cached, so rerunning the command resumes an interrupted build.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from data_pipeline.commands import command_line
from data_pipeline.commands.build import build_or_inspect
from data_pipeline.commands.build_text import DATASET_JOBS
from data_pipeline.commands.command_line import Command, printed
from data_pipeline.commands.options import BuildOptions
from data_pipeline.commands.plan_mixture import PlanMixture
from data_pipeline.commands.train_crawl_models import TrainPerplexity, TrainReferences
from data_pipeline.files.remote import root_of
from recipes.llama1_corpus import C4Files, CrawlModels, llama1_corpus


@dataclass(frozen=True)
class BuildDataset:
    """Build the token store of a corpus from the raw files of the public sources.

    Other jobs, each with its own --help: plan, train-perplexity, train-references,
    compare-builds, compare-tokenizers, find-document, remove, verify.
    """

    raw: str
    """Folder with one folder per source, with its files as published; or its URL (s3://, gs://,
    hf://), from which files are downloaded one at a time."""
    build: Annotated[BuildOptions, tyro.conf.arg(name="")]
    models: CrawlModels = field(default_factory=CrawlModels)
    c4: C4Files = field(default_factory=C4Files)


JOBS = {
    "train-perplexity": Command(TrainPerplexity, printed(TrainPerplexity.run)),
    "train-references": Command(TrainReferences, printed(lambda job: job.run(llama1_corpus))),
    "plan": Command(PlanMixture, printed(lambda job: job.run(llama1_corpus(Path("raw"))))),
    **DATASET_JOBS,
}


def run(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit code. ValueError for invalid options."""
    return command_line.run(arguments, Command(BuildDataset, _build), JOBS, prog="build_dataset.sh")


def _build(options: BuildDataset) -> int:
    corpus = llama1_corpus(root_of(options.raw), options.models, options.c4)
    return build_or_inspect(corpus, options.build, program="bash recipes/build_dataset.sh")


if __name__ == "__main__":
    command_line.main(run)
