"""What is wrong in the text of real samples: holes and glued words of Wikipedia per language, notes
about the file left in books, keys of acronyms left in papers.

    python -m benchmarks.data.text_residue --samples FOLDER [--before FILE.json] [--rehearse]

FOLDER holds `raw/<source>/`. `--before` names the numbers of another commit, to stand beside these
(run the script with that commit's `data_pipeline` and `recipes` first on PYTHONPATH).

A hole is an inline template between words of which nothing is left: the words stand side by side in
the text. Templates that are to leave nothing, such as references, do not count. A word is glued
where the text has as one word what the wikitext has as two, with a template, a tag or at least
three apostrophes between them.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks.measuring import results
from data_pipeline.document import Document, Source
from recipes.llama1_corpus import arxiv_source, books_source, wikipedia_source

_WORD = re.compile(r"[^\W\d_]+")
_INLINE = re.compile(
    r"(\w+[ \t]\w+)[ \t]?\{\{\s*([^{}|\n<>]{1,60})(?:\|[^{}]{0,200})?\}\}[ \t]?(\w+)"
)
_SILENT = re.compile(
    r"(?:cit|ref|sfn|efn|harvnp|fact|cn$|clarif|when|who|which|by whom|dead|webarchive|r$|rp|fn"
    r"|note|anchor|ancora|anker|senza fonte|chiarire|non chiaro|f$|nf|source|belege|dubio|update"
    r"|page needed|as of|inline|better|verif|oclc|isbn|coord|nbsp|spaces|shy|wbr|clear|-$|br$)",
    re.IGNORECASE,
)
"""Names of templates that are to leave nothing: references, doubts, anchors, layout."""
_LONG_WORD = re.compile(r"[^\W\d_]{5,40}")
_BETWEEN = r"(?:\s*(?:\{\{[^{}]{0,300}\}\}|<[^<>]{1,200}>|'{3,})\s*)+"
_NOTE = re.compile(
    r"transcriber|project gutenberg|\be-?text\b|electronic version|proofread(?:er|ing)"
    r"|anmerkungen? zur transkription|note (?:au|du) (?:lecteur|transcripteur)|[\w.+-]+@[\w-]+\.\w",
    re.IGNORECASE,
)
_EDGE_PARAGRAPHS = 40
_KEY = re.compile(r"\\(?:gls|Gls|GLS|glspl|Glspl|acrshort|acrlong|acrfull|ac|acp|acl|acs|acf)\*?\{")


@dataclass(frozen=True)
class Residue:
    """Places in the texts of a source (Wikipedia: of a language)."""

    source: str
    what: str
    documents: int
    words: int
    places: int
    documents_with: int

    @property
    def per_thousand_words(self) -> float:
        return 1_000 * self.places / max(1, self.words)


@dataclass
class _Sum:
    documents: int = 0
    words: int = 0
    places: int = 0
    documents_with: int = 0

    def add(self, text: str, places: int) -> None:
        self.documents += 1
        self.words += len(_WORD.findall(text))
        self.places += places
        self.documents_with += places > 0


def texts(source: Source, folder: Path, limit: int | None) -> Iterator[tuple[Document, str]]:
    """Each document as read, and its text after the edits."""
    number = 0
    for file in source.inputs(folder / source.name).files:
        for item in source.read(file):
            edited = item
            for edit in source.edits:
                edited = edit(edited) if isinstance(edited, Document) else edited
            if isinstance(item, Document) and isinstance(edited, Document):
                yield item, edited.text
                number += 1
                if number == limit:
                    return


def wikipedia(folder: Path, limit: int | None) -> Iterator[Residue]:
    sums: dict[tuple[str, str], _Sum] = {}
    for document, text in texts(wikipedia_source(), folder, limit):
        language = document.language or ""
        for what, places in (
            ("holes", len(holes(document.text, text))),
            ("glued words", len(glued_words(document.text, text))),
        ):
            sums.setdefault((language, what), _Sum()).add(text, places)
    for (language, what), found in sorted(sums.items(), key=lambda item: item[0][::-1]):
        yield Residue(f"wikipedia {language}", what, **asdict(found))


def holes(wikitext: str, text: str) -> list[str]:
    """Names of the inline templates of which nothing is left."""
    found = []
    for match in _INLINE.finditer(wikitext):
        before, name, behind = match.groups()
        side_by_side = rf"(?<!\w){re.escape(before)}\s?{re.escape(behind)}(?!\w)"
        if not _SILENT.match(name.strip()) and re.search(side_by_side, text):
            found.append(name.strip())
    return found


def glued_words(wikitext: str, text: str) -> list[str]:
    """Words of the text that the wikitext has as two, with markup between them."""
    words = set(_WORD.findall(wikitext))
    found = []
    for word, count in Counter(_LONG_WORD.findall(text)).items():
        if word in wikitext:
            continue
        parts = ((word[:cut], word[cut:]) for cut in range(1, len(word)))
        for first, second in parts:
            if first in words and second in words:
                pattern = rf"(?<!\w){re.escape(first)}{_BETWEEN}{re.escape(second)}(?!\w)"
                if re.search(pattern, wikitext):
                    found += [word] * count
                    break
    return found


def books(folder: Path, limit: int | None) -> Iterator[Residue]:
    found = _Sum()
    for _, text in texts(books_source(), folder, limit):
        paragraphs = text.split("\n\n")
        edges = [*paragraphs[:_EDGE_PARAGRAPHS], *paragraphs[-_EDGE_PARAGRAPHS:]]
        found.add(text, sum(_NOTE.search(paragraph) is not None for paragraph in edges))
    yield Residue("books", "notes about the file", **asdict(found))


def arxiv(folder: Path, limit: int | None) -> Iterator[Residue]:
    found = _Sum()
    for _, text in texts(arxiv_source(), folder, limit):
        found.add(text, len(_KEY.findall(text)))
    yield Residue("arxiv", "keys of acronyms", **asdict(found))


def report(rows: list[Residue], before: dict[tuple[str, str], int], about: str) -> list[str]:
    header = ("source", "what", "documents", "words", "places", "before", "per 1,000 words")
    return [
        "# What is wrong in the text of samples",
        about,
        results.table(
            header,
            [
                (
                    row.source,
                    row.what,
                    f"{row.documents:,}",
                    f"{row.words:,}",
                    f"{row.places:,}",
                    f"{before[row.source, row.what]:,}" if (row.source, row.what) in before else "",
                    f"{row.per_thousand_words:.3f}",
                )
                for row in rows
            ],
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=Path, required=True, help="folder with raw/<source>/")
    parser.add_argument("--before", type=Path, help="numbers of another commit")
    parser.add_argument("--rehearse", action="store_true", help="everything in a small size")
    parser.add_argument("--out", type=Path, default=results.RESULTS)
    options = parser.parse_args()
    commit = results.commit()
    limit = 3 if options.rehearse else None
    rows: list[Residue] = []
    for measure in (wikipedia, books, arxiv):
        rows += measure(options.samples / "raw", limit)
    before: dict[tuple[str, str], int] = {}
    if options.before is not None:
        earlier = json.loads(options.before.read_text(encoding="utf-8"))
        before = {(row["source"], row["what"]): row["places"] for row in earlier}
    stem = results.result_stem(options.out, "text_residue", torch.device("cpu"))
    about = f"Commit {commit}. Command: `{results.command()}`."
    print(results.write(stem, report(rows, before, about), [asdict(row) for row in rows]))


if __name__ == "__main__":
    main()
