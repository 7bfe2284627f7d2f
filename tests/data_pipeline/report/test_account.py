"""The account of a build: as JSON, from a documents folder, and two of them compared."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from data_pipeline.commands.compare_builds import CompareBuilds
from data_pipeline.documents_folder import MANIFEST_VERSION, DropCount, Manifest
from data_pipeline.report import page as report_page
from data_pipeline.report.account import BuildAccount, DropExample, source_account
from tests.support.sample_account import RULES, sample_account, with_more_books


def test_builds_are_compared(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for folder, account in ((old, with_more_books()), (new, sample_account())):
        folder.mkdir()
        (folder / "report.json").write_bytes(account.to_json())
    said = CompareBuilds(out=new, before=old / "report.json").run()
    assert re.search(r"books +dropped: language +12,647 +11,647 +-1,000", said)
    assert "difference-table" in (new / "difference.html").read_text()
    assert "the same numbers" in CompareBuilds(out=new, before=new).run()
    with pytest.raises(ValueError, match=r"report\.json is missing"):
        CompareBuilds(out=new, before=tmp_path).run()


def test_account_survives_json() -> None:
    account = sample_account()
    assert BuildAccount.from_json(account.to_json()) == account
    with pytest.raises(ValueError, match="corpus"):
        BuildAccount.from_json(b'{"created": ""}')
    later = account.to_json().replace(b'"version": 3', b'"version": 99')
    with pytest.raises(ValueError, match="version 99"):
        BuildAccount.from_json(later)


def test_account_of_a_documents_folder() -> None:
    manifest = Manifest(
        version=MANIFEST_VERSION,
        source="web",
        fingerprint="",
        versions={},
        num_input_files=2,
        num_input_bytes=500,
        num_read=100,
        num_kept=60,
        num_read_bytes=10_000,
        drops=(
            DropCount("compare", "near_duplicate", 5, 400),
            DropCount("compare", "exact", 15, 1_500),
            DropCount("filter", "short", 18, 90),
            DropCount("filter", "damaged", 1, 0),
            DropCount("read", "damaged", 1, 0),
        ),
        contaminated={},
        ignored={},
        advice={},
        num_paragraphs_removed=7,
        num_paragraph_characters_removed=300,
        num_text_bytes=5_000,
        lengths={"7": 60},
        languages={"en": 60},
        licenses={"": 60},
        license_bytes={"": 6_000},
        domains={},
        scores={},
        files=(),
    )
    source = source_account(manifest, RULES)
    assert [(s.name, s.documents, s.text_bytes) for s in source.stages] == [
        ("read", 100, 10_000),
        ("clean", 80, 6_900),
        ("exact", 65, 5_400),
        ("url", 65, 5_400),
        ("book_overlap", 65, 5_400),
        ("near_duplicate", 60, 5_000),
    ]
    assert sum(drop.documents for drop in source.dropped) == 40
    assert source.paragraphs_removed == 7
    damaged = [drop for drop in source.dropped if drop.reason == "damaged"]
    assert [(drop.stage, drop.documents) for drop in damaged] == [("clean", 2)]
    assert source.num_no_documents == damaged[0].no_documents == 1
    # Examples are as a documents folder has them.
    examples = tuple(
        DropExample("web", stage, reason, "a", 1, None, None, "its text")
        for stage, reason in (("filter", "short"), ("read", "damaged"), ("compare", "exact"))
    )
    page = report_page.render(BuildAccount("web", "now", (source,), examples=examples))
    assert page.count("its text") == 3
