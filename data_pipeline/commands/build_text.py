"""Builds a dataset from your own text or corpus function: documents, tokenizer, token store.

    RAW  ->  OUT/documents/text/  ->  OUT/tokenizer/  ->  OUT/store/
             OUT/documents/README.md (dataset card), OUT/report.html, OUT/report.json

Started as `bash recipes/build_text.sh`, or as `llama-ds-build` where the package is installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, NoReturn

import tyro

from data_pipeline.commands import command_line
from data_pipeline.commands.build import build_or_inspect
from data_pipeline.commands.command_line import Command, printed
from data_pipeline.commands.compare_builds import CompareBuilds
from data_pipeline.commands.compare_tokenizers import CompareTokenizers
from data_pipeline.commands.find_document import FindDocument
from data_pipeline.commands.options import BuildOptions
from data_pipeline.commands.own_functions import own_function
from data_pipeline.commands.plan_mixture import PlanMixture
from data_pipeline.commands.remove import RemoveDocuments
from data_pipeline.commands.verify_store import VerifyStore
from data_pipeline.corpus import Corpus, CorpusFunction, text_corpus
from data_pipeline.files.remote import root_of


@dataclass(frozen=True)
class TextOptions:
    """How text files are read."""

    text_field: str = "text"
    """Field of JSON lines, or column of Parquet, that holds the text."""
    max_document_bytes: int = 256 * 1024
    """Maximum document size; larger plain-text files are split at blank lines."""


@dataclass(frozen=True)
class BuildText:
    """Build a token store from your own text: plain text (.txt, .md, ...), JSON lines, Parquet.

    Other jobs, each with its own --help: plan, compare-builds, compare-tokenizers, find-document,
    remove, verify.
    """

    raw: str
    """Input folder or file, optionally compressed (.gz, .zst); or its URL (s3://, gs://, hf://),
    from which files are downloaded one at a time."""
    build: Annotated[BuildOptions, tyro.conf.arg(name="")]
    corpus: str | None = None
    """FILE.py:FUNCTION, a function that maps the path or URL of the raw files to a
    data_pipeline.corpus.Corpus; by default one source, `text`, with all text files."""
    text: Annotated[TextOptions, tyro.conf.arg(name="")] = field(default_factory=TextOptions)


def main() -> NoReturn:
    """The console command."""
    command_line.main(lambda arguments: run(arguments, prog="llama-ds-build"))


def run(arguments: Sequence[str], *, prog: str) -> int:
    """Run the command line; returns the exit code. ValueError for invalid options."""
    program = prog if "/" not in prog else f"bash {prog}"
    default = Command(BuildText, lambda options: _build(options, program))
    others = {
        "plan": Command(PlanMixture, printed(lambda plan: plan.run(text_corpus(Path("text"))))),
        **DATASET_JOBS,
    }
    return command_line.run(arguments, default, others, prog=prog)


DATASET_JOBS = {
    "compare-builds": Command(CompareBuilds, printed(CompareBuilds.run)),
    "compare-tokenizers": Command(CompareTokenizers, printed(CompareTokenizers.run)),
    "find-document": Command(FindDocument, printed(FindDocument.run)),
    "remove": Command(RemoveDocuments, printed(RemoveDocuments.run)),
    "verify": Command(VerifyStore, printed(VerifyStore.run)),
}
"""Subcommands on a built dataset, independent of its corpus."""


def _build(options: BuildText, program: str) -> int:
    return build_or_inspect(_corpus(options), options.build, program=program)


def _corpus(options: BuildText) -> Corpus:
    root, text = root_of(options.raw), options.text
    if options.corpus is None:
        return text_corpus(
            root, text_field=text.text_field, max_document_bytes=text.max_document_bytes
        )
    if text != TextOptions():
        raise ValueError(
            "--text-field and --max-document-bytes have no effect with --corpus, whose sources "
            "define how their files are read; leave them out"
        )
    return _checked(corpus_function(options.corpus)(root), options.corpus)


def _checked(corpus: object, name: str) -> Corpus:
    if not isinstance(corpus, Corpus):
        raise ValueError(
            f"--corpus {name} returned a {type(corpus).__name__}, not a data_pipeline.corpus.Corpus"
        )
    return corpus


def corpus_function(place: str) -> CorpusFunction:
    """Import the function FILE.py:FUNCTION; ValueError where there is none."""
    found: CorpusFunction = own_function(place, "--corpus")
    return found
