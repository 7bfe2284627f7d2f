"""The dataset job: the public sources' raw files -> clean documents -> token store, with a report.

    RAW/<source>/  ->  OUT/documents/<source>/  ->  OUT/tokenizer/  ->  OUT/store/
                       OUT/documents/README.md (dataset card), OUT/report.html, OUT/report.json

Every finished group of files is kept, so the same command continues after an interruption and does
nothing twice.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Protocol

import tyro

from data_pipeline.build.build_corpus import BuildError
from data_pipeline.commands.build import build
from data_pipeline.commands.compare_tokenizers import CompareTokenizers
from data_pipeline.commands.find_document import FindDocument
from data_pipeline.commands.inspect import show
from data_pipeline.commands.options import BuildDataset
from data_pipeline.commands.plan_mixture import PlanMixture
from data_pipeline.commands.remove import RemoveDocuments
from data_pipeline.commands.train_crawl_models import TrainPerplexity, TrainReferences
from data_pipeline.executors.executor import WorkerLost
from data_pipeline.files.remote import root_of
from recipes.launch import bad_input, errors_in_one_line
from recipes.llama1_corpus import llama1_corpus


class Job(Protocol):
    """What a subcommand names."""

    def run(self) -> str:
        """Do it; what to print."""


JOBS: dict[str, type[Job]] = {
    "train-perplexity": TrainPerplexity,
    "train-references": TrainReferences,
    "plan": PlanMixture,
    "compare-tokenizers": CompareTokenizers,
    "find-document": FindDocument,
    "remove": RemoveDocuments,
}


def main() -> None:
    try:
        code = run(sys.argv[1:])
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except (ValueError, OSError) as error:
        code = bad_input(error)
    except (BuildError, WorkerLost) as error:
        print(error, file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        code = 130
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """What the command line asks for; the exit code."""
    if arguments and (kind := JOBS.get(arguments[0])) is not None:
        with errors_in_one_line():
            job: Job = tyro.cli(kind, args=arguments[1:], prog=f"build_dataset.sh {arguments[0]}")
        print(job.run())
        return 0
    with errors_in_one_line():
        options = tyro.cli(BuildDataset, args=arguments, prog="build_dataset.sh")
    if options.inspect is None:
        return build(options)
    corpus = llama1_corpus(root_of(options.raw), options.models)
    show(
        corpus,
        options.out,
        options.inspect,
        reason=options.reason,
        edits=options.edits,
        limit=options.limit,
    )
    return 0


if __name__ == "__main__":
    main()
