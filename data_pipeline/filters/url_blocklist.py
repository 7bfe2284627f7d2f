"""URL block list: pages of listed domains, or with listed words in their URL, are dropped.

One entry a line, blank lines and comments ("#") ignored: an entry with a dot is a domain, which
stands for its subdomains, too; any other is a word, which a URL has between characters that are no
letters or digits.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from data_pipeline.document import Document, Rejected
from data_pipeline.files.model_file import ModelFile, model_file

_HOST = re.compile(r"[a-z][a-z0-9+.-]{0,20}://(?:[^/?#@]{0,200}@)?([^/?#:@]{1,253})", re.IGNORECASE)
_WORD = re.compile(r"[^\W_]+")


def block_list(path: Path) -> ModelFile:
    """The block list at `path`; ValueError if it is missing or has an entry that is neither."""
    found = model_file(
        path,
        what="a list of domains and words, one per line",
        published="https://dsi.ut-capitole.fr/blacklists/ (domains by category)",
        made_by="hand",
        left_out_by="leaving out --steps.blocked-urls",
    )
    _read(found)
    return found


class _Blocked(NamedTuple):
    domains: frozenset[str]
    words: frozenset[str]


def drop_blocked(document: Document, *, blocked: ModelFile) -> Document | Rejected:
    """Edit: reject a document whose URL is on the list (`blocked_url`)."""
    if document.url is None:
        return document
    domains, words = _read(blocked)
    host = _HOST.match(document.url)
    labels = host[1].lower().rstrip(".").split(".") if host is not None else []
    for start in range(len(labels)):
        if (domain := ".".join(labels[start:])) in domains:
            return document.rejected("blocked_url", f"{domain}: {document.url}")
    for match in _WORD.finditer(document.url.lower()) if words else ():
        if match[0] in words:
            return document.rejected("blocked_url", f"{match[0]}: {document.url}")
    return document


@lru_cache(maxsize=4)
def _read(file: ModelFile) -> _Blocked:
    domains, words = set(), set()
    for number, line in enumerate(file.path.read_text("utf-8-sig").splitlines(), start=1):
        entry = line.partition("#")[0].strip().lower()
        if "." in entry and not re.search(r"[\s/:]", entry):
            domains.add(entry.strip(".").removeprefix("www."))
        elif _WORD.fullmatch(entry):
            words.add(entry)
        elif entry:
            raise ValueError(
                f"{file.path}, line {number}: {entry[:80]!r} is neither a domain (example.org) nor "
                "a word of letters and digits"
            )
    return _Blocked(frozenset(domains), frozenset(words))
