# ruff: noqa: RUF001 - Russian text has letters that look like others
"""Language identification, with the model that comes with the package."""

import hashlib
from functools import partial
from pathlib import Path

import pytest

from data_pipeline.document import Document
from data_pipeline.files.model_file import ModelFile
from data_pipeline.filters.language import (
    identify_language,
    language_model,
    other_language,
    uncertain_language,
)


@pytest.fixture
def model() -> ModelFile:
    return language_model(None)


TEXTS = {
    "en": "The river runs from the hills to the sea, past four old towns and a mill.",
    "de": "Der Fluss fließt von den Hügeln zum Meer, vorbei an vier alten Städten.",
    "ru": "Река течёт с холмов к морю мимо четырёх старых городов и мельницы.",
}


@pytest.mark.parametrize("language", TEXTS)
def test_languages(model: ModelFile, language: str) -> None:
    document = identify_language(Document(TEXTS[language], "f"), model=model, max_characters=1000)
    assert document.language == language
    assert document.language_score is not None
    assert 0.5 < document.language_score <= 1.0


@pytest.mark.parametrize("language", TEXTS)
def test_languages_in_capitals(model: ModelFile, language: str) -> None:
    text = f"{TEXTS[language].upper()} 2024."
    document = identify_language(Document(text, "f"), model=model, max_characters=1000)
    assert document.text == text
    assert document.language == language
    assert uncertain_language(document, min_score=0.5) is None


def test_only_the_beginning_is_read(model: ModelFile) -> None:
    text = TEXTS["de"] * 3 + TEXTS["en"] * 50
    languages = [
        identify_language(Document(text, "f"), model=model, max_characters=n).language
        for n in (200, 5000)
    ]
    assert languages == ["de", "en"]


@pytest.mark.parametrize("text", ["", "\n\n", "12345 67", "\x00", "a\nb\n"])
def test_anything_gets_an_answer(model: ModelFile, text: str) -> None:
    document = identify_language(Document(text, "f"), model=model, max_characters=1000)
    assert document.text == text
    assert document.language_score is not None


@pytest.mark.parametrize(
    ("language", "score", "reasons"),
    [
        ("en", 0.5, []),
        ("en", 0.49, ["uncertain_language"]),
        ("de", 0.9, ["other_language"]),
        (None, None, ["uncertain_language", "other_language"]),
    ],
)
def test_filters(language: str | None, score: float | None, reasons: list[str]) -> None:
    document = Document("text", "f", language=language, language_score=score)
    rules = (
        partial(uncertain_language, min_score=0.5),
        partial(other_language, languages=frozenset({"en"})),
    )
    assert [reason for rule in rules if (reason := rule(document))] == reasons


def test_the_model_is_the_published_one_and_has_its_license_beside_it() -> None:
    path = language_model(None).path
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    assert checksum == "8f3472cfe8738a7b6099e8e999c3cbfae0dcd15696aac7d7738a8039db603e83"
    license = path.with_name("lid.176.ftz.license").read_text("utf-8")
    assert checksum in license
    assert "https://creativecommons.org/licenses/by-sa/3.0/" in license


def test_a_missing_model_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"lid\.bin is missing; .*fasttext\.cc.*of the package data_pipeline is used",
    ):
        language_model(tmp_path / "lid.bin")
    with pytest.raises(ValueError, match="is a folder"):
        language_model(tmp_path)


def test_models_are_known_by_their_content(tmp_path: Path) -> None:
    """What a build is made from changes with the bytes of the model, not with its folder."""
    (tmp_path / "a").mkdir()
    for path, content in ((tmp_path / "m", b"1"), (tmp_path / "a" / "m", b"1")):
        path.write_bytes(content)
    assert repr(language_model(tmp_path / "m")) == repr(language_model(tmp_path / "a" / "m"))
    first = repr(language_model(tmp_path / "m"))
    (tmp_path / "m").write_bytes(b"2")
    assert repr(language_model(tmp_path / "m")) != first
