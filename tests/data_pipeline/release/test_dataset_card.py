"""The card as Hugging Face's own libraries read it, and what goes to the hub."""

from __future__ import annotations

import dataclasses
import re
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, get_dataset_config_names, load_dataset
from huggingface_hub import DatasetCard

from data_pipeline.build.build_corpus import DISTINCT_TEXTS, build_corpus
from data_pipeline.document import SCHEMA, Source
from data_pipeline.documents_folder import Manifest
from data_pipeline.filters import heuristics as filters
from data_pipeline.release.dataset_card import COLUMNS, card, write_card
from data_pipeline.release.hub import push_to_hub
from data_pipeline.report.account import BuildAccount, source_account
from data_pipeline.sources import folder
from tests.support.sample_account import sample_account

TEXTS = {
    "books": ["a long first book", "a long second book", "short"],
    "web": ["a page of the web", "a long first book", "one more page"],
    "nothing": ["brief"],
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Manifest]]:
    """Three sources, the last without a document that is kept, and their card beside them."""
    root = tmp_path_factory.mktemp("corpus")
    sources = []
    for name, texts in TEXTS.items():
        (root / "raw" / name).mkdir(parents=True)
        for number, text in enumerate(texts):
            (root / "raw" / name / f"{number}.txt").write_text(text)
        read = partial(folder.read, text_field="text", max_document_bytes=1000)
        long = partial(filters.too_short, min_characters=10)
        source = Source(name=name, inputs=folder.inputs, read=read, filters=(long,))
        sources.append((source, root / "raw" / name))
    manifests = build_corpus(sources, root / "out", may_be_empty=True)
    write_card(_account(manifests), root / "out")
    return root / "out", manifests


def _account(manifests: dict[str, Manifest]) -> BuildAccount:
    rules = [rule.name for rule in DISTINCT_TEXTS]
    sources = tuple(source_account(manifest, rules) for manifest in manifests.values())
    return BuildAccount("small", "2026-01-01", sources)


def _load(folder: Path, name: str, cache: Path) -> Dataset:
    return load_dataset(str(folder), name, split="train", cache_dir=str(cache))


def test_sources_load_by_name(built: tuple[Path, dict[str, Manifest]], tmp_path: Path) -> None:
    out, manifests = built
    assert get_dataset_config_names(str(out)) == ["all", "books", "web", "ledger"]
    for name in ("books", "web"):
        rows = _load(out, name, tmp_path)
        assert set(rows.column_names) == set(SCHEMA.names)
        assert set(rows["source"]) == {name}
        assert len(rows) == manifests[name].num_kept
    assert _load(out, "books", tmp_path)["text"][:] == TEXTS["books"][:2]


def test_without_a_name_everything_loads(
    built: tuple[Path, dict[str, Manifest]], tmp_path: Path
) -> None:
    out, manifests = built
    rows = load_dataset(str(out), split="train", cache_dir=str(tmp_path))
    assert len(rows) == sum(manifest.num_kept for manifest in manifests.values()) == 4


def test_ledger_loads(built: tuple[Path, dict[str, Manifest]], tmp_path: Path) -> None:
    rows = _load(built[0], "ledger", tmp_path)
    assert sorted(rows["reason"]) == ["duplicate", "too_short", "too_short"]
    assert "text" not in rows.column_names


def test_documents_may_lie_in_a_folder_below(
    built: tuple[Path, dict[str, Manifest]], tmp_path: Path
) -> None:
    out, manifests = built
    (tmp_path / "documents").symlink_to(out, target_is_directory=True)
    write_card(_account(manifests), tmp_path, documents="documents")
    assert len(_load(tmp_path, "web", tmp_path / "cache")) == 2


def test_metadata() -> None:
    account = sample_account()
    data: Any = DatasetCard(card(account)).data
    assert data.size_categories == ["10M<n<100M"]
    assert data.license == [
        *("apache-2.0", "bsd-2-clause", "bsd-3-clause", "cc-by-4.0", "cc-by-sa-4.0", "cc0-1.0"),
        *("mit", "odc-by", "other", "unknown"),
    ]
    assert data.language[:3] == ["ca", "de", "en"]
    names = [config["config_name"] for config in data.configs]
    assert names == ["all", *(source.name for source in account.sources), "ledger"]


@pytest.mark.parametrize(
    ("documents", "category"),
    [(0, "n<1K"), (999, "n<1K"), (1_000, "1K<n<10K"), (10**6, "1M<n<10M"), (10**13, "n>1T")],
)
def test_size_categories(documents: int, category: str) -> None:
    account = sample_account()
    source = account.sources[3]
    stages = tuple(dataclasses.replace(stage, documents=documents) for stage in source.stages)
    source = dataclasses.replace(source, stages=stages, dropped=())
    shown = card(dataclasses.replace(account, sources=(source,)))
    data: Any = DatasetCard(shown).data
    assert data.size_categories == [category]


def test_card_says_what_was_built() -> None:
    text = card(sample_account())
    assert "| books | Project Gutenberg's plain texts | 61,300 files, 10.9 GB | 46,773 |" in text
    assert "| github | clean | license | 4,499,800 |" in text
    assert "| github | MIT | 2,899,391 |" in text
    assert "- undone, so its duplicates are kept: `url`" in text
    assert "Books3 is not public" in text
    for line in text.splitlines():
        assert not line.startswith("|") or line.endswith("|")


def test_every_column_is_explained() -> None:
    assert list(COLUMNS) == SCHEMA.names


def test_texts_of_a_card_are_no_markup() -> None:
    account = sample_account()
    source = dataclasses.replace(
        account.sources[0], licenses={"a|b\n# <script>": 1}, license_bytes={}, origin="[x](y)\n---"
    )
    text = card(dataclasses.replace(account, sources=(source,)))
    assert r"a\|b # \<script\>" in text
    assert r"\[x\](y) ---" in text
    assert len(re.findall("^---$", text, re.MULTILINE)) == 2


def test_reserved_names_are_refused() -> None:
    account = sample_account()
    source = dataclasses.replace(account.sources[0], name="ledger")
    with pytest.raises(ValueError, match="cannot have the name ledger"):
        card(dataclasses.replace(account, sources=(source,)))


# -- the hub --------------------------------------------------------------------------------------


def _matching(names: list[str], patterns: list[str]) -> list[str]:
    """As `huggingface_hub` chooses files: an asterisk stands for slashes, too."""
    return [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]


class LocalHub:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, Any]] = {}
        self.files: list[str] = []
        self.deleted: list[str] = []

    def create_repo(self, repo_id: str, **options: Any) -> object:
        self.repositories[repo_id] = options
        return repo_id

    def upload_folder(self, *, repo_id: str, folder_path: Path, **options: Any) -> object:
        assert repo_id in self.repositories
        paths = (p for p in folder_path.rglob("*") if p.is_file())
        names = [path.relative_to(folder_path).as_posix() for path in paths]
        ignored = set(_matching(names, options["ignore_patterns"]))
        chosen = set(_matching(names, options["allow_patterns"])) - ignored
        stale = _matching(self.files, options["delete_patterns"])
        self.deleted = sorted(set(stale) - chosen)
        self.files = sorted(chosen | set(self.files) - set(self.deleted))
        return options["commit_message"]


def test_documents_and_card_are_pushed(built: tuple[Path, dict[str, Manifest]]) -> None:
    hub = LocalHub()
    (built[0] / "books" / "cache").mkdir(exist_ok=True)
    (built[0] / "books" / "cache" / "documents-1.parquet").touch()
    address = push_to_hub(built[0], "somebody/corpus", hub=hub)
    assert address == "https://huggingface.co/datasets/somebody/corpus"
    options = {"repo_type": "dataset", "private": True, "exist_ok": True}
    assert hub.repositories == {"somebody/corpus": options}
    assert "README.md" in hub.files
    assert "books/manifest.json" in hub.files
    assert any(name.startswith("web/documents-") for name in hub.files)
    assert any(name.startswith("web/dropped-") for name in hub.files)
    assert not [
        name for name in hub.files if name.startswith(".") or "cache" in name or "examples" in name
    ]


def test_what_went_here_goes_there(built: tuple[Path, dict[str, Manifest]]) -> None:
    hub = LocalHub()
    hub.files = ["web/documents-00007-000.parquet", "picture.png"]
    push_to_hub(built[0], "somebody/corpus", private=False, hub=hub)
    assert hub.deleted == ["web/documents-00007-000.parquet"]
    assert "picture.png" in hub.files
    assert hub.repositories["somebody/corpus"]["private"] is False


def test_a_folder_without_card_is_not_pushed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no dataset card"):
        push_to_hub(tmp_path, "somebody/corpus", hub=LocalHub())


def test_rows_that_state_thousands_of_licenses_do_not_fill_the_card() -> None:
    account = sample_account()
    many = {f"LicenseRef-{i:05}": 20_000 - i for i in range(20_000)} | {"MIT" * 10_000: 30_000}
    languages = {f"{a}{b}{c}": 1 for a in "abcdefghij" for b in "abcdefghij" for c in "abcdefghij"}
    source = dataclasses.replace(
        account.sources[0],
        licenses=many,
        license_bytes=dict.fromkeys(many, 1_000),
        languages={"en": 5, **languages},
    )
    text = card(dataclasses.replace(account, sources=(source,)))
    assert len(text) < 40_000
    assert "19,951 others" in text
    assert "| LicenseRef-00000 | 20,000 |" in text
    data: Any = DatasetCard(text).data
    assert "en" in data.language
    assert len(data.language) == 200
    assert data.license == ["other"]
