"""The classifier of references: training, sampling, scoring."""

import random
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import fasttext
import pytest

from data_pipeline.document import Document
from data_pipeline.files.model_file import ModelFile
from data_pipeline.filters.reference_classifier import (
    ClassifierConfig,
    not_reference,
    reference_model,
    score_reference,
    train_reference_classifier,
)
from data_pipeline.filters.reference_urls import ReferenceUrls

CONFIG = ClassifierConfig(dim=8, epoch=20, lr=0.5)
GOOD = ("study", "journal", "history", "museum", "census", "survey", "archive", "university")
OTHER = ("buy", "cheap", "click", "shop", "sale", "login", "cart", "offer")
BOTH = ("the", "and", "of", "page", "in")


def pages() -> list[Document]:
    rng = random.Random(0)
    found = []
    for number in range(300):
        words = GOOD if number % 5 == 0 else OTHER
        text = " ".join(rng.choices(words + BOTH, k=60)) + f" {number}"
        found.append(Document(text, "f", number, url=f"http://e.org/{number}/"))
    return found


REFERENCES = ReferenceUrls.of(f"https://www.e.org/{number}" for number in range(0, 300, 5))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelFile:
    path = tmp_path_factory.mktemp("classifier") / "new" / "reference.bin"
    counts = train_reference_classifier(REFERENCES, pages(), path, config=CONFIG)
    assert counts == {"num_pages": 300, "num_references": 60, "num_random": 60}
    return reference_model(path)


def score(model: ModelFile, text: str) -> float:
    value = score_reference(Document(text, "f"), model=model, max_characters=1000).reference_score
    assert value is not None
    return value


def test_references_score_high(model: ModelFile) -> None:
    assert score(model, "The history of the museum\nand the census") > 0.8
    assert score(model, "Click and buy cheap in the shop") < 0.2
    assert 0.0 <= score(model, "") <= 1.0
    assert 0.0 <= score(model, "__label__reference __label__random") <= 1.0


def test_only_the_beginning_is_read(model: ModelFile) -> None:
    good, long = "museum census survey ", "buy cheap click shop " * 100
    whole = score_reference(Document(good + long, "f"), model=model, max_characters=10_000)
    start = score_reference(Document(good + long, "f"), model=model, max_characters=len(good))
    assert whole.reference_score is not None
    assert start.reference_score is not None
    assert start.reference_score > 0.8 > whole.reference_score


def test_training_depends_on_the_pages_alone(tmp_path: Path) -> None:
    """Not on their order, nor on chance, nor on copies of a page: equal bytes."""
    config = ClassifierConfig(dim=4, max_pages=30)
    for name, seed in (("a", 0), ("b", 1)):
        shuffled = random.Random(seed).sample(pages() + pages()[:seed], 300 + seed)
        order: Iterator[Document] = iter(shuffled)
        train_reference_classifier(REFERENCES, order, tmp_path / name, config=config)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_random_pages_are_not_the_first_ones(tmp_path: Path) -> None:
    """RedPajama's negatives are the first pages of each file."""
    places = [
        replace(page, text=f"{page.text} part{number // 60}") for number, page in enumerate(pages())
    ]
    config = ClassifierConfig(dim=4, max_pages=60)
    path = tmp_path / "m"
    train_reference_classifier(REFERENCES, places, path, config=config)
    words = fasttext.load_model(str(path)).get_words(include_freq=True)
    counts = dict(zip(*words, strict=True))
    # 60 references, 12 from each part, and 60 of the others, about 12 from each part.
    assert all(17 <= counts[f"part{part}"] <= 31 for part in range(5))


@pytest.mark.parametrize(
    ("references", "given_pages", "message"),
    [
        (ReferenceUrls.of([]), pages(), "of 300 crawled pages 0 are references"),
        (REFERENCES, pages()[:1], "of 1 crawled pages 1 are references of Wikipedia and 0 are not"),
        (REFERENCES, [], "of 0 crawled pages"),
        (REFERENCES, [Document("no url", "f")], "of 1 crawled pages 0"),
    ],
)
def test_training_refuses(
    tmp_path: Path, references: ReferenceUrls, given_pages: list[Document], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train_reference_classifier(references, given_pages, tmp_path / "m", config=CONFIG)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("value", "reason"), [(0.25, None), (0.24, "not_reference"), (None, None), (1.0, None)]
)
def test_threshold(value: float | None, reason: str | None) -> None:
    document = Document("text", "f", reference_score=value)
    assert partial(not_reference, min_score=0.25)(document) == reason


def test_a_missing_model_says_what_to_do(tmp_path: Path) -> None:
    message = r"m\.bin is missing; it should be .*train-references.*leave --models.reference out"
    with pytest.raises(ValueError, match=message):
        reference_model(tmp_path / "m.bin")


@pytest.mark.parametrize("settings", [{"max_pages": 0}, {"lr": 0.0}, {"dim": -1}])
def test_settings_are_checked(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"classifier\.\w+ \("):
        ClassifierConfig(**settings)
