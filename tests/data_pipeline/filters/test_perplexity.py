"""Perplexity: training a language's models, buckets, and what is said when files are missing."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_pipeline.document import Document
from data_pipeline.filters.ngram import read_arpa
from data_pipeline.filters.perplexity import (
    PerplexityModel,
    has_kenlm,
    kenlm_scorer,
    load_tokenizer,
    measure_perplexity,
    numpy_scorer,
    outside_buckets,
    perplexity,
    perplexity_model,
)
from data_pipeline.filters.perplexity_training import NGramConfig, train_ngram
from recipes.llama1_web import PUBLISHED_CUTOFFS

CONFIG = NGramConfig(order=3, vocab_size=200)
NOUNS = ("river", "mill", "town", "hill", "bridge", "forest", "road", "lake")
VERBS = ("passes", "crosses", "follows", "reaches", "leaves")


def texts(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    sentence = "The {} {} the old {}, and in {} the {} {} the {}."
    return [
        "\n".join(
            sentence.format(
                *(
                    rng.choice(NOUNS),
                    rng.choice(VERBS),
                    rng.choice(NOUNS),
                    rng.randrange(1900, 2000),
                ),
                *(rng.choice(NOUNS), rng.choice(VERBS), rng.choice(NOUNS)),
            )
            for _ in range(4)
        )
        for _ in range(count)
    ]


def pages() -> list[str]:
    """Texts with ever more words that no text of the training has."""
    noise = random.Random(9)
    words = [text.split() for text in texts(40, 1)]
    for number, own in enumerate(words):
        for place in noise.sample(range(len(own)), number):
            own[place] = "".join(noise.choices("bcdfghjklmpqrtvwxz", k=5))
    return [" ".join(own) for own in words]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PerplexityModel:
    folder = tmp_path_factory.mktemp("models") / "en"
    train_ngram(texts(150, 0), pages(), folder, language="en", config=CONFIG)
    return perplexity_model("en", folder, published_cutoffs={})


def measured(text: str, model: PerplexityModel) -> float:
    value = measure_perplexity(Document(text, "f", language="en"), models=(model,)).perplexity
    assert value is not None
    return value


def test_shuffled_text_is_more_surprising(model: PerplexityModel) -> None:
    for text in texts(5, 2):
        words = text.split()
        random.Random(0).shuffle(words)
        assert measured(text, model) * 2 < measured(" ".join(words), model)


def test_cutoffs_are_percentiles_of_the_pages(model: PerplexityModel) -> None:
    buckets = [model.bucket(measured(text, model)) for text in pages()]
    assert [buckets.count(name) for name in ("head", "middle", "tail")] == [12, 12, 16]


def test_numpy_and_kenlm_give_the_same_perplexity(model: PerplexityModel) -> None:
    if not has_kenlm():
        pytest.skip("kenlm is not installed (it needs a compiler)")
    tokenizer = load_tokenizer(model.tokenizer)
    ours, kenlm = numpy_scorer(read_arpa(model.ngram.path)), kenlm_scorer(model.ngram.path)
    for text in (*texts(10, 3), "", "words \u5ddd unseen", "The river"):
        expected = perplexity(text, tokenizer, kenlm)
        # Both are rounded to a tenth; single precision may tip that.
        assert perplexity(text, tokenizer, ours) == pytest.approx(expected, abs=0.11, rel=1e-4)


def test_training_depends_on_the_texts_alone(tmp_path: Path) -> None:
    """Not on their order, nor on chance: equal bytes, also where only a sample is used."""
    documents, pages = texts(120, 4), texts(30, 5)
    config = NGramConfig(
        order=3, vocab_size=120, tokenizer_bytes=15_000, ngram_bytes=20_000, cutoff_pages=10
    )
    for name, seed in (("a", 0), ("b", 1)):
        order: Iterator[str] = iter(random.Random(seed).sample(documents, len(documents)))
        shuffled = random.Random(seed).sample(pages, len(pages))
        train_ngram(order, shuffled, tmp_path / name, language="en", config=config)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == ["en.arpa", "en.cutoffs.json", "en.sp.model"]
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert json.loads((tmp_path / "a" / "en.cutoffs.json").read_bytes())["num_pages"] == 10


def test_buckets() -> None:
    model = PerplexityModel("en", None, None, 340.0, 520.0)  # type: ignore[arg-type]
    other = PerplexityModel("de", None, None, 1.0, 2.0)  # type: ignore[arg-type]

    def reason(perplexity: float | None) -> str | None:
        document = Document("text", "f", language="en", perplexity=perplexity)
        return outside_buckets(document, models=(other, model), keep=frozenset({"head", "middle"}))

    assert [model.bucket(value) for value in (339.9, 340.0, 519.9, 520.0)] == [
        "head",
        "middle",
        "middle",
        "tail",
    ]
    assert [reason(value) for value in (100.0, 519.9, 520.0, None)] == [
        None,
        None,
        "perplexity_tail",
        None,
    ]
    everything = Document("text", "f", language="en", perplexity=1.0)
    assert outside_buckets(everything, models=(model,), keep=frozenset()) == "perplexity_head"


def test_languages_without_a_model_are_not_measured(model: PerplexityModel) -> None:
    document = Document("Der Fluss", "f", language="de")
    assert measure_perplexity(document, models=(model,)) == document


def test_missing_files_say_what_to_do(tmp_path: Path, model: PerplexityModel) -> None:
    with pytest.raises(
        ValueError, match=r"en\.sp\.model is missing; .*fbaipublicfiles.*train-perplexity"
    ):
        perplexity_model("en", tmp_path, published_cutoffs=PUBLISHED_CUTOFFS)
    for name in ("sw.sp.model", "sw.arpa", "en.sp.model", "en.arpa.gz"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match="no cut-offs of a published model are known for 'sw'"):
        perplexity_model("sw", tmp_path, published_cutoffs=PUBLISHED_CUTOFFS)
    found = perplexity_model("en", tmp_path, published_cutoffs=PUBLISHED_CUTOFFS)
    assert (found.head_below, found.tail_from, found.ngram.name) == (340.0, 520.0, "en.arpa.gz")


def test_binary_models_need_kenlm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("en.sp.model", "en.arpa.bin"):
        (tmp_path / name).touch()
    monkeypatch.setattr("data_pipeline.filters.perplexity.has_kenlm", lambda: False)
    with pytest.raises(ValueError, match="KenLM's binary form"):
        perplexity_model("en", tmp_path, published_cutoffs=PUBLISHED_CUTOFFS)


@pytest.mark.parametrize(
    ("documents", "pages", "message"),
    [
        ([], ["page"], "no text to train"),
        (["", "\n"], ["page"], "no text to train"),
        (texts(60, 0), [], "no crawled page in 'en'"),
    ],
)
def test_training_refuses(
    tmp_path: Path, documents: list[str], pages: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train_ngram(documents, pages, tmp_path / "en", language="en", config=CONFIG)
    assert not (tmp_path / "en").exists()


def test_a_vocabulary_that_is_too_small(tmp_path: Path) -> None:
    config = NGramConfig(vocab_size=5)
    with pytest.raises(ValueError, match=r"cannot be trained: .*Vocabulary size"):
        train_ngram(texts(9, 0), texts(9, 1), tmp_path / "en", language="en", config=config)


@pytest.mark.parametrize(
    "settings",
    [{"order": 0}, {"vocab_size": -1}, {"head_percentile": 70.0}, {"seed": 0, "ngram_bytes": 0}],
)
def test_settings_are_checked(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"ngram\."):
        NGramConfig(**settings)
