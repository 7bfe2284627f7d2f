"""GitHub source: filters against loops over characters, notices, rows against bare JSON parsing.

    python -m benchmarks.data.source_github [--samples FOLDER] [--rehearse]

FOLDER holds raw/github with rows (`*.jsonl.gz`); without it they are synthetic. Contenders take
turns in every round, timed by CPU time of the process; a ratio is the median over rounds of ratios
within a round.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measuring.turns import Work, compare
from data_pipeline.document import Document
from data_pipeline.sources.github.notices import without_notices
from data_pipeline.sources.rows import Row, read_rows
from recipes.llama1_corpus import github_source

NOTICE = (
    "# Copyright 2020 me\n#\n# Licensed under the Apache License, Version 2.0 (the License).\n\n"
)
SOURCE = github_source()


def loops(documents: Sequence[Document]) -> int:
    """The four filters naively, character by character."""
    dropped = 0
    for document in documents:
        lengths = [len(line) for line in document.text.split("\n")]
        alphanumerics = sum(1 for character in document.text if character.isalnum())
        dropped += (
            max(lengths) > 1_000
            or sum(lengths) > 100 * len(lengths)
            or alphanumerics < 0.25 * len(document.text)
        )
    return dropped


def filters(documents: Sequence[Document]) -> int:
    """All filters of the source."""
    return sum(any(rule(document) for rule in SOURCE.filters) for document in documents)


def notices(documents: Sequence[Document]) -> int:
    return sum(len(without_notices(document).text) for document in documents)


def made(folder: Path, num_rows: int) -> None:
    body = "\n".join(f"def function_{i}(first, second):\n    return first + {i}" for i in range(99))
    row = {"repo_name": "a/b", "path": "c.py", "license": "mit", "content": NOTICE + body}
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as stream:
        for _ in range(num_rows):
            stream.write(json.dumps(row) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="speed of the GitHub source")
    parser.add_argument("--samples", type=Path, help="folder with raw/github")
    parser.add_argument("--rehearse", action="store_true", help="everything in a small size")
    arguments = parser.parse_args()
    rounds = 1 if arguments.rehearse else 7
    with tempfile.TemporaryDirectory() as temporary:
        if arguments.samples is not None:
            folder = arguments.samples / "raw" / "github"
        else:
            folder = Path(temporary)
            made(folder, 50 if arguments.rehearse else 2_000)
        files = SOURCE.inputs(folder).files

        def documents() -> list[Document]:
            items = [item for file in files for item in SOURCE.read(file)]
            return [item for item in items if isinstance(item, Document)]

        def bare_rows() -> int:
            wanted = ("content", frozenset({"repo_name", "path", "license"}).__contains__, 16 << 20)
            found = 0
            for file in files:
                rows = read_rows(
                    file, text_field=wanted[0], is_wanted=wanted[1], max_line_bytes=wanted[2]
                )
                found += sum(isinstance(row, Row) for row in rows)
            return found

        texts = documents()
        size = sum(len(document.text.encode()) for document in texts)
        print(f"{len(texts)} files, {size / 1e6:.1f} MB")
        work: dict[str, Work] = {
            "filters": lambda: filters(texts),
            "the rules in loops": lambda: loops(texts),
        }
        compare("filters", work, size / 1e6, rounds)
        work = {"notices removed": lambda: notices(texts)}
        compare("notices", work, size / 1e6, rounds)
        work = {"rows to documents": documents, "JSON lines alone": bare_rows}
        compare("reading", work, size / 1e6, rounds)


if __name__ == "__main__":
    main()
