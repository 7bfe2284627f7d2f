"""Wikitext to text: ours against mwparserfromhell and wikitextparser.

    python -m benchmarks.data.source_wikipedia [--samples FOLDER] [--rehearse]

All take turns on the same pages in one process, timed by CPU time of the process, and the ratio is
the median over rounds. `--samples` names a folder with `raw/wikipedia`; without it pages are
synthetic. Residue is markup that is left in the text.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import random
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import mwparserfromhell

from benchmarks.measuring.turns import Work, compare
from data_pipeline.document import Document
from data_pipeline.sources.wikipedia.wikitext import to_text
from recipes.llama1_corpus import wikipedia_source

RESIDUE = {
    name: re.compile(re.escape(name)) for name in ("thumb|", "Category:", "<ref", "{{", "[[", "|}")
}

_LEFT_OUT = frozenset({"ref", "references", "table", "gallery", "timeline", "math", "score"})
_NAMESPACE = re.compile(r"\s*[\w -]{2,20}:")
_WORDS = "the river of a city which was built in and near its old bridge"


def made_page(rng: random.Random, num_paragraphs: int = 20) -> str:
    """Synthetic wikitext with the constructs of an article, at a similar density."""
    words = _WORDS.split()

    def sentence() -> str:
        parts = [rng.choice(words) for _ in range(14)]
        parts[3] = f"[[{parts[3].title()} {rng.randrange(999)}|{parts[3]}]]"
        parts[7] = f"''{parts[7]}''"
        parts[9] = f"{{{{convert|{rng.randrange(99)}|km}}}}"
        return (
            " ".join(parts) + f".<ref>{{{{cite web|url=http://a.b/{rng.randrange(999)}}}}}</ref> "
        )

    blocks = ["{{Infobox town\n| name = A\n| area = {{convert|5|km2}}\n}}\n'''A''' is a town."]
    for number in range(num_paragraphs):
        blocks.append("".join(sentence() for _ in range(5)))
        if number % 5 == 0:
            blocks.append(f"== Part {number} ==\n[[File:a{number}.jpg|thumb|A [[bridge]].]]")
            rows = "".join(f"|-\n| {row} || {row * row}\n" for row in range(10))
            blocks.append(f'{{| class="wikitable"\n! a !! b\n{rows}|}}')
        if number % 4 == 0:
            blocks.append("".join(f"* {sentence()}\n" for _ in range(3)))
    return "\n\n".join([*blocks, "== References ==\n<references/>\n[[Category:Towns]]\n[[de:A]]"])


def sample_pages(folder: Path) -> list[str]:
    """The wikitext of all articles under `folder`."""
    source = wikipedia_source()
    items = [item for file in source.inputs(folder).files for item in source.read(file)]
    return [item.text for item in items if isinstance(item, Document)]


def measure(pages: Sequence[str], rounds: int) -> None:
    """Print throughput and residue of all, and the coverage of the prose by ours."""
    size = sum(len(page.encode()) for page in pages) / 1e6
    converters: dict[str, Callable[[str], str]] = {"ours": to_text, "mwparserfromhell": _strip_code}
    if importlib.util.find_spec("wikitextparser") is not None:
        converters["wikitextparser"] = _plain_text
    work: dict[str, Work] = {
        name: partial(_converted, convert, pages) for name, convert in converters.items()
    }
    compare(f"wikitext to text: {len(pages)} pages, {size:.1f} MB", work, size, rounds)
    for name, convert in converters.items():
        texts = _converted(convert, pages)
        left = {key: sum(len(p.findall(t)) for t in texts) for key, p in RESIDUE.items()}
        print(f"  residue of {name}: {left}")
    share = _word_share(_converted(to_text, pages), [_prose(page) for page in pages])
    print(f"  of the distinct words of its prose, ours has {share:.2%}")


def _converted(convert: Callable[[str], str], pages: Sequence[str]) -> list[str]:
    return [convert(page) for page in pages]


def _strip_code(page: str) -> str:
    return str(mwparserfromhell.parse(page).strip_code())


def _plain_text(page: str) -> str:
    return str(importlib.import_module("wikitextparser").parse(page).plain_text())


def _prose(page: str) -> str:
    """mwparserfromhell's text without constructs dropped on purpose, by its own parser."""
    code = mwparserfromhell.parse(page)
    unwanted = [
        *(tag for tag in code.filter_tags() if str(tag.tag).strip().lower() in _LEFT_OUT),
        *(link for link in code.filter_wikilinks() if _NAMESPACE.match(str(link.title))),
    ]
    for node in unwanted:
        with suppress(ValueError):  # it was nested in another one
            code.remove(node)
    return str(code.strip_code())


def _word_share(ours: Sequence[str], theirs: Sequence[str]) -> float:
    """Share of the words of `theirs` that `ours` has, too (words of letters)."""
    word = re.compile(r"[^\W\d_]{3,}")
    pairs = [
        (set(word.findall(a)), set(word.findall(b))) for a, b in zip(ours, theirs, strict=True)
    ]
    return sum(len(a & b) for a, b in pairs) / max(1, sum(len(b) for _, b in pairs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=Path, help="folder with raw/wikipedia")
    parser.add_argument("--rehearse", action="store_true", help="everything in a small size")
    options = parser.parse_args()
    rng = random.Random(0)
    if options.samples is not None:
        pages = sample_pages(options.samples / "raw" / "wikipedia")
    else:
        pages = [made_page(rng) for _ in range(100)]
    measure(pages[:5] if options.rehearse else pages, rounds=1 if options.rehearse else 3)


if __name__ == "__main__":
    main()
