"""Steps beside the corpus's own: they apply to the named sources, and are fingerprinted."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from data_pipeline.build.fingerprint import source_fingerprint
from data_pipeline.build.parts import apply_edits_and_filters
from data_pipeline.commands.extra_steps import ExtraSteps
from data_pipeline.corpus import Corpus, text_corpus
from data_pipeline.document import Document, Rejected
from recipes.llama1_corpus import llama1_corpus

OWN = """\
from data_pipeline.document import Document, Rejected

SECRET = {word!r}

def cut(text: str) -> str:
    return text.replace(SECRET, "")

def without_secrets(document: Document) -> Document | Rejected:
    if document.text == SECRET:
        return document.rejected("only_secrets")
    return document.with_text(cut(document.text))
"""


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return text_corpus(tmp_path)


def applied(corpus: Corpus, steps: ExtraSteps, text: str, url: str | None = None) -> str:
    """The text that the corpus's first source keeps, or the drop reason."""
    (source, _), *_ = steps.added_to(corpus).sources
    item = apply_edits_and_filters(source, Document(text, "file", url=url))
    return item.reason if isinstance(item, Rejected) else item.text


def test_steps_apply(corpus: Corpus, tmp_path: Path) -> None:
    text = "Mail a@b.example, host 8.8.8.8."
    assert applied(corpus, ExtraSteps(), text) == text
    masks = ExtraSteps(mask_emails=("text",), mask_ips=("text",))
    assert applied(corpus, masks, text) == "Mail email@example.org, host 192.0.2.1."
    blocked = tmp_path / "blocked.txt"
    blocked.write_text("b.example\n")
    block = ExtraSteps(blocked_urls=blocked)
    assert applied(corpus, block, text, "https://a.b.example/") == "blocked_url"
    assert applied(corpus, block, text, "https://c.example/") == text
    assert applied(corpus, ExtraSteps(gopher=("text",)), text) == "gopher_word_count"
    assert applied(corpus, ExtraSteps(fineweb=("text",)), "no\nend") == "fineweb_line_ends"


def test_only_the_named_sources_change(tmp_path: Path) -> None:
    corpus = llama1_corpus(tmp_path)
    more = ExtraSteps(gopher=("c4",), mask_emails=("c4", "common_crawl")).added_to(corpus)
    changed = {
        source.name
        for (source, _), (before, _) in zip(more.sources, corpus.sources, strict=True)
        if source_fingerprint(source) != source_fingerprint(before)
    }
    assert changed == {"c4", "common_crawl"}
    assert more.added == (
        "c4: e-mail addresses are masked",
        "c4: Gopher's rules",
        "common_crawl: e-mail addresses are masked",
    )
    with pytest.raises(
        ValueError, match=r"--steps\.gopher: unknown source web; the corpus has wiki"
    ):
        ExtraSteps(gopher=("web",)).added_to(corpus)


def test_a_step_of_ones_own(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    path = tmp_path / "own_steps_of_this_test.py"
    steps = ExtraSteps(own=(f"{path}:without_secrets",))
    fingerprints = []
    for word in ("secret", "secret", "hidden"):
        path.write_text(OWN.format(word=word))
        monkeypatch.delitem(sys.modules, path.stem, raising=False)
        importlib.invalidate_caches()
        assert applied(corpus, steps, f"a {word} b") == "a  b"
        assert applied(corpus, steps, word) == "only_secrets"
        fingerprints.append(source_fingerprint(steps.added_to(corpus).sources[0][0]))
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]
    assert steps.added_to(corpus).added == ("text: own_steps_of_this_test.py:without_secrets",)
    with pytest.raises(ValueError, match=r"--steps\.own: .* has no function nothing"):
        ExtraSteps(own=(f"{path}:nothing",)).added_to(corpus)
