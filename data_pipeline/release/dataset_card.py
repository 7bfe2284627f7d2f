"""Dataset card (README.md) of a folder of documents folders, in the Hugging Face Hub's format.

It makes `datasets.load_dataset(FOLDER, SOURCE)` load one source, all sources without a name, and
the dropped documents by the name "ledger"; from the folder itself and from the Hub.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from huggingface_hub import DatasetCardData

from data_pipeline.document import SCHEMA
from data_pipeline.files.atomic import write_atomic
from data_pipeline.report.account import BuildAccount, SourceAccount
from data_pipeline.report.formatting import count, percent, size, visible

CARD = "README.md"
MAX_LANGUAGES, MAX_LICENSES = 200, 50
"""Languages in the card's metadata, and licenses that it lists per source: those with the most
documents. Rows of a source may state as many as they like."""
_MAX_NAME = 100
ALL, LEDGER = "all", "ledger"
"""Configurations besides one per source: the documents of all sources; the dropped documents."""

# The Hub's license names are the SPDX identifiers in lower case, except for these.
_LICENSE_NAMES = {"odc-by-1.0": "odc-by", "unlicense": "unlicense", "pddl-1.0": "pddl"}
_HUB_LICENSES = {
    *("afl-3.0", "agpl-3.0", "apache-2.0", "artistic-2.0", "bsd-2-clause", "bsd-3-clause"),
    *("bsd-3-clause-clear", "bsl-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0"),
    *("cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0"),
    *("cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-sa-3.0"),
    *("cc-by-sa-4.0", "cc0-1.0", "ecl-2.0", "epl-1.0", "epl-2.0", "eupl-1.1", "isc", "mit"),
    *("mpl-2.0", "ms-pl", "ncsa", "odc-by", "ofl-1.1", "osl-3.0", "pddl", "postgresql"),
    *("unlicense", "wtfpl", "zlib"),
}
COLUMNS = {
    "id": "xxh3 of 128 bits over the text's UTF-8 bytes",
    "text": "the document",
    "source": "the source that it comes from",
    "url": "its URL",
    "title": "its title",
    "language": "ISO 639 code",
    "license": "SPDX expression",
    "timestamp": "ISO 8601, as the source says",
    "source_file": "the raw file that it was read from",
    "offset": "its position in that file, in the reader's unit",
    "language_score": "probability of the language, where it was identified",
    "perplexity": "under an n-gram LM of high-quality text, where it was measured",
    "reference_score": "probability of being a page that Wikipedia cites, where it was classified",
    "contamination": "evaluation sets that it overlaps with, as JSON, where these are flagged",
}


def write_card(account: BuildAccount, folder: Path, *, documents: str = "") -> None:
    """Write `folder/README.md`; the documents folders lie in `folder/documents/<source>/`."""
    write_atomic(folder / CARD, card(account, documents=documents).encode("utf-8"))


def card(account: BuildAccount, *, documents: str = "") -> str:
    """The card: YAML metadata with the data files' paths, and a description.

    `documents`: path of the documents folders, relative to the card; "" for the same folder.
    """
    prefix = f"{documents.strip('/')}/" if documents.strip("/") else ""
    parts = [
        f"---\n{_metadata(account, prefix).to_yaml()}\n---",
        f"# {_cell(account.corpus)}",
        _introduction(account),
        _loading(account),
        _sources(account.sources),
        _columns(),
        _building(account),
        _drops(account.sources),
        _licenses(account.sources),
        _removal(),
        _versions(account),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


# -- metadata -------------------------------------------------------------------------------------


def _metadata(account: BuildAccount, prefix: str) -> DatasetCardData:
    holding = [source for source in account.sources if source.num_documents]
    reserved = {ALL, LEDGER} & {source.name for source in account.sources}
    if reserved:
        raise ValueError(f"a source cannot have the name {', '.join(sorted(reserved))}")
    names = {name for source in holding for name in source.licenses}
    languages = Counter[str]()
    for source in holding:
        languages.update(source.languages)
    named = [name for name, _ in _most(languages) if re.fullmatch("[a-z]{2,3}", name)]
    configs = [
        _config(source.name, [f"{prefix}{source.name}/documents-*.parquet"]) for source in holding
    ]
    if holding:
        everything = [f"{prefix}{source.name}/documents-*.parquet" for source in holding]
        configs.insert(0, {**_config(ALL, everything), "default": True})
    ledgers = [f"{prefix}{s.name}/dropped-*.parquet" for s in account.sources if s.dropped]
    if ledgers:
        configs.append(_config(LEDGER, ledgers))
    return DatasetCardData(
        pretty_name=account.corpus,
        language=sorted(named[:MAX_LANGUAGES]) or None,
        license=sorted({_hub_license(name) for name in names}) or None,
        size_categories=[_size_category(sum(source.num_documents for source in holding))],
        task_categories=["text-generation"],
        tags=["pretraining", "llama"],
        configs=configs,
    )


def _config(name: str, paths: Sequence[str]) -> dict[str, object]:
    return {"config_name": name, "data_files": [{"split": "train", "path": list(paths)}]}


def _hub_license(spdx: str) -> str:
    """The Hub's name of a license; "other" if it has no name for it, "unknown" for ""."""
    if not spdx:
        return "unknown"
    name = spdx.lower()
    name = _LICENSE_NAMES.get(name, name)
    return name if name in _HUB_LICENSES else "other"


def _size_category(documents: int) -> str:
    bounds = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")
    if documents < 1_000:
        return "n<1K"
    power = min(len(str(documents)) - 4, len(bounds) - 1)
    return f"{bounds[power]}<n<{bounds[power + 1]}" if power + 1 < len(bounds) else "n>1T"


# -- text -----------------------------------------------------------------------------------------


def _introduction(account: BuildAccount) -> str:
    documents = sum(source.num_documents for source in account.sources)
    text_bytes = sum(source.num_text_bytes for source in account.sources)
    read = sum(source.stages[0].documents for source in account.sources)
    return (
        f"{count(documents)} documents with {size(text_bytes)} of text from "
        f"{len(account.sources)} sources, {percent(documents, read)} of the {count(read)} that "
        f"were read. Built {_cell(account.created)} by llama-ds. Documents were cleaned and "
        "deduplicated; each dropped document is listed with its drop reason."
    )


def _loading(account: BuildAccount) -> str:
    names = [source.name for source in account.sources if source.num_documents]
    if not names:
        return ""
    return f"""## Loading

```python
from datasets import load_dataset

everything = load_dataset("FOLDER_OR_REPOSITORY", split="train", streaming=True)
{_identifier(names[0])} = load_dataset("FOLDER_OR_REPOSITORY", "{names[0]}", split="train")
dropped = load_dataset("FOLDER_OR_REPOSITORY", "{LEDGER}", split="train")
```"""


def _identifier(name: str) -> str:
    return name if name.isidentifier() else "source"


def _sources(sources: Sequence[SourceAccount]) -> str:
    rows = [
        (
            source.name,
            source.origin or "–",
            f"{source.num_input_files:,} files, {size(source.num_input_bytes)}",
            f"{source.num_documents:,}",
            percent(source.num_documents, source.stages[0].documents),
            size(source.num_text_bytes),
            "–" if source.num_tokens is None else count(source.num_tokens),
        )
        for source in sources
    ]
    head = ("source", "from", "raw files", "documents", "of those read", "text", "tokens")
    return "## Sources\n\n" + _table(head, rows)


def _columns() -> str:
    rows = [(f"`{field.name}`", str(field.type), COLUMNS.get(field.name, "")) for field in SCHEMA]
    return "## Columns\n\n" + _table(("column", "type", "what it is"), rows)


def _building(account: BuildAccount) -> str:
    lines = ["## How it was built", ""]
    if account.stages:
        lines.append(
            "Stages, in order: "
            + ", ".join(f"`{name}`" for name in account.stages)
            + ". `clean` is the result of a source's own edits and filters; the others are "
            "deduplication rules, which keep one document of each set of duplicates."
        )
    if account.left_out or account.undone:
        lines.append("")
    lines += [f"- left out: {_cell(step)}" for step in account.left_out]
    lines += [f"- undone, so its duplicates are kept: `{rule}`" for rule in account.undone]
    if account.evaluations:
        rows = [(e.name, f"{e.items:,}", f"{e.hits:,}") for e in account.evaluations]
        head = ("evaluation set", "items", "contaminated documents")
        lines += ["", _table(head, rows)]
    return "\n".join(lines)


def _drops(sources: Sequence[SourceAccount]) -> str:
    rows = [
        (source.name, drop.stage, drop.reason, f"{drop.documents:,}", size(drop.text_bytes))
        for source in sources
        for drop in sorted(source.dropped, key=lambda item: -item.documents)
    ]
    head = ("source", "stage", "reason", "documents", "text")
    return "## What was dropped\n\n" + _table(head, rows) if rows else ""


def _licenses(sources: Sequence[SourceAccount]) -> str:
    rows = [row for source in sources for row in _license_rows(source)]
    head = ("source", "license", "documents", "text", "terms of the source")
    if not rows:
        return ""
    return (
        "## Licenses\n\nEach document is under its own license, in its column `license`; there is "
        "none for the whole.\n\n" + _table(head, rows)
    )


def _license_rows(source: SourceAccount) -> Iterator[tuple[str, str, str, str, str]]:
    """The licenses with the most documents, and the others in one row."""
    found = _most(source.licenses)
    for name, documents in found[:MAX_LICENSES]:
        text = size(source.license_bytes[name]) if name in source.license_bytes else "–"
        shown = name if len(name) <= _MAX_NAME else f"{name[:_MAX_NAME]}…"
        shown = shown or "not stated per document"
        yield source.name, shown, f"{documents:,}", text, source.terms or "–"
    if others := found[MAX_LICENSES:]:
        documents = sum(number for _, number in others)
        text_bytes = sum(source.license_bytes.get(name, 0) for name, _ in others)
        what = f"{len(others):,} others, in the column `license`"
        text = size(text_bytes) if source.license_bytes else "–"
        yield source.name, what, f"{documents:,}", text, source.terms or "–"


def _most(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """By number, the largest first."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _removal() -> str:
    return """## Asking for removal

Name the documents by `id`, by `url`, or by `license`. Whoever maintains this dataset removes them
from the documents, from the token store and from what is published, without a rebuild; the ledger
then has a row with the reason `requested` and without the text. To find documents:

```python
hits = everything.filter(lambda row: row["url"] is not None and "example.org" in row["url"])
```"""


def _versions(account: BuildAccount) -> str:
    rows = [*(account.versions or {}).items(), *(account.fingerprints or {}).items()]
    return "## Versions and fingerprints\n\n" + _table(("of", "is"), rows) if rows else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(text: str) -> str:
    """Escape text for a Markdown table cell, on one line."""
    line = " ".join(visible(text).split())
    return re.sub(r"([\\|<>*\[\]])", r"\\\1", line)
