"""Fuzzes every source of the LLaMA corpus with generated malformed and hostile inputs.

    python -m tests.tools.fuzz_readers --seconds 600 [--source NAME] [--seed N] [--save FOLDER]

The sources take turns and share the time. The exit code is 1 if an input crashed a source, took
too long, was not accounted for, or made its memory grow; such inputs are kept under FOLDER.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from recipes.llama1_corpus import CrawlModels, llama1_corpus
from tests.support.nasty_arxiv import nasty_arxiv
from tests.support.nasty_books import nasty_books
from tests.support.nasty_common_crawl import nasty_c4, nasty_common_crawl
from tests.support.nasty_github import nasty_github
from tests.support.nasty_stack_exchange import nasty_stack_exchange
from tests.support.nasty_wikipedia import nasty_wikipedia
from tests.support.watched import Account, Generator, Limits, watch

GENERATORS: dict[str, Generator] = {
    "wikipedia": nasty_wikipedia,
    "books": nasty_books,
    "arxiv": nasty_arxiv,
    "stack_exchange": nasty_stack_exchange,
    "github": nasty_github,
    "c4": nasty_c4,
    "common_crawl": nasty_common_crawl,
}


def table(accounts: Sequence[Account]) -> str:
    """One line per source, below it how often each reason was given."""
    heading = ("source", "files", "ignored", "documents", "rejected", "peak MiB", "slowest file")
    lines = ["{:<16}{:>8}{:>9}{:>11}{:>10}{:>10}  {}".format(*heading)]
    for account in accounts:
        seconds, name = account.slowest
        lines.append(
            f"{account.source:<16}{account.num_files:>8,}{account.num_ignored:>9,}"
            f"{account.num_documents:>11,}{account.reasons.total():>10,}"
            f"{account.peak_bytes >> 20:>10,}  {name} ({seconds:.2f} s)"
        )
        lines += [f"  - {reason:<40}{n:>14,}" for reason, n in sorted(account.reasons.items())]
    return "\n".join(lines)


def main() -> None:
    limits = Limits()
    parser = argparse.ArgumentParser(description="hostile inputs through every source")
    parser.add_argument("--seconds", type=float, default=600.0, help="for all sources together")
    parser.add_argument("--source", choices=GENERATORS, help="only this one")
    parser.add_argument("--seed", type=int, help="by default another one in every run")
    parser.add_argument("--save", type=Path, default=Path("fuzz_failures"), help="for bad inputs")
    parser.add_argument("--seconds-per-file", type=float, default=limits.seconds_per_file)
    options = parser.parse_args()
    limits = Limits(seconds_per_file=options.seconds_per_file)
    seed = random.randrange(1 << 32) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    sources = {source.name: source for source, _ in llama1_corpus(Path(), CrawlModels()).sources}
    assert sources.keys() == GENERATORS.keys(), "every source of the corpus has its generator"
    names = [options.source] if options.source else list(GENERATORS)
    accounts: list[Account] = []
    for name in names:
        account = watch(
            sources[name],
            GENERATORS[name],
            seed=f"{seed} {name}",
            seconds=options.seconds / len(names),
            limits=limits,
            save=options.save,
            # Nothing here has threads, and the sources' libraries are imported once.
            start_method="fork",
        )
        accounts.append(account)
        print(f"{name}: {account.failure or 'survived'}", flush=True)
    print(table(accounts))
    sys.exit(1 if any(account.failure for account in accounts) else 0)


if __name__ == "__main__":
    main()
