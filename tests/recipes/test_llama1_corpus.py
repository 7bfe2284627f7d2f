"""The sources of CommonCrawl and C4 as the corpus has them, from files to counted documents."""

from pathlib import Path

import pytest

from data_pipeline.build.build_corpus import build_documents
from data_pipeline.document import Document
from data_pipeline.documents_folder import load_documents
from data_pipeline.filters.perplexity_training import NGramConfig, train_ngram
from data_pipeline.filters.reference_classifier import ClassifierConfig, train_reference_classifier
from data_pipeline.filters.reference_urls import collect_reference_urls
from recipes.llama1_web import c4_from_crawl_source, c4_source, common_crawl_source
from tests.support.nasty_common_crawl import conversion, http, pack, record

ENGLISH = (
    "The {} museum keeps a history of the town and of the river on which it lies. A survey of the "
    "old mills was made here, and the census of that year names every family that lived by the "
    "water. Scholars of the university come to read the letters, and the archive is open to all. "
    "Visitors find it beside the bridge."
)
GERMAN = (
    "Das Museum bewahrt die Geschichte der Stadt und des Flusses, an dem sie liegt. Hier wurden "
    "die alten Mühlen vermessen, und die Zählung jenes Jahres nennt jede Familie, die am Wasser "
    "lebte. Gelehrte der Universität lesen hier die Briefe, und das Archiv steht allen offen, "
    "auch an Feiertagen und am Abend."
)
SHOP = (
    "Buy our {} shoes and get the best offer of the week when you click on the button below. We "
    "sell cheap shoes for everybody, and every order that you place today is sent to your home "
    "for free. Add shoes to the cart, log in to the shop and pay by card, and do not miss the "
    "sale of the year. Hurry now, for our shoes are soon gone."
)
NOISE = "qwe zxc the vbn ghj of tyu iop and jkl bnm in fgh rty is vcx the asd to hjk of wer. " * 5


def page(text: str, name: str) -> bytes:
    body = f"<html><head><title>{name}</title></head><article><p>{text}</p></article></html>"
    return record(http(body.encode()), url=f"http://example.org/{name}")


def test_common_crawl_with_every_step(tmp_path: Path) -> None:
    words = ("north", "south", "east", "west", "upper", "lower", "new", "royal", "small", "great")
    museums = [Document(ENGLISH.format(w), "f", url=f"http://e.org/{w}") for w in words]
    shops = [Document(SHOP.format(w), "f", url=f"http://shop.org/{w}") for w in words]
    texts = [page.text for page in (*museums, *shops)]
    train_ngram(
        texts * 3, [*texts, NOISE], tmp_path / "en", language="en",
        config=NGramConfig(order=3, vocab_size=150, tail_percentile=96.0),
    )  # fmt: skip
    references = collect_reference_urls(f"<ref name=x>https://e.org/{w}/</ref>" for w in words)
    train_reference_classifier(
        references, [*museums, *shops], tmp_path / "reference.bin",
        config=ClassifierConfig(dim=8, epoch=50, lr=0.5),
    )  # fmt: skip
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "a.warc.gz").write_bytes(
        pack(
            record(b"software: x", kind="warcinfo"),
            page(ENGLISH.format("old"), "museum"),
            page(ENGLISH.format("old"), "museum-again"),
            page(GERMAN, "german"),
            page("Too short.", "short"),
            page(SHOP.format("red"), "shop"),
            page(NOISE, "noise"),
        )
    )
    (raw / "a.warc.wat.gz").write_bytes(b"")
    source = common_crawl_source(
        perplexity_models={"en": tmp_path / "en"}, reference_model=tmp_path / "reference.bin"
    )
    manifest = build_documents(source, raw, tmp_path / "out")
    assert manifest.num_read == 7
    assert manifest.dropped == {
        "duplicate_paragraphs": 1,
        "not_reference": 1,
        "other_language": 1,
        "perplexity_tail": 1,
        "too_short": 1,
        "warcinfo_record": 1,
    }
    assert manifest.ignored == {"wat": 1}
    (row,) = load_documents(tmp_path / "out")
    assert (row["title"], row["url"]) == ("museum", "http://example.org/museum")
    assert (row["language"], row["timestamp"]) == ("en", "2019-07-17T12:15:59Z")
    assert row["language_score"] > 0.9
    assert 1 < row["perplexity"] < 100
    assert row["reference_score"] > 0.5


def test_steps_are_left_out_where_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.wet").write_bytes(conversion(ENGLISH) + conversion(GERMAN) + conversion(NOISE))
    manifest = build_documents(common_crawl_source(), tmp_path, tmp_path.with_suffix(".out"))
    assert manifest.num_read == 3
    assert set(manifest.dropped) <= {"other_language", "uncertain_language"}


def test_every_language_needs_a_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="perplexity_models has no folder for de, fr"):
        common_crawl_source(languages=frozenset({"de", "fr"}), perplexity_models={"en": tmp_path})


def test_c4_as_published(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(
        '{"text": "One is here. Two is here.\\nAnd three is here, too.", "url": "u"}\n'
        '{"text": "Only one is here.\\nAnd not more", "url": "u"}\n'
        '{"text": "menu | home | about | a. b. c. d", "url": "u"}\n'
        '{"text": "One. Two. Three.", "url": "u"}\n'
    )
    manifest = build_documents(c4_source(), tmp_path, tmp_path.with_suffix(".out"))
    assert manifest.num_kept == 1
    assert manifest.dropped == {"few_sentences": 1, "few_words": 1, "no_end_mark": 1}


def test_c4_from_the_crawl(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("rude\n")
    raw = tmp_path / "raw"
    raw.mkdir()
    lines = ENGLISH.format("old").replace(". ", ".\n")
    texts = [
        f"Menu\nHome\n{lines}",
        f"{lines}\nAnd lorem ipsum stands here, too.",
        f"{lines}\nHere a function begins with {{ and ends.",
        f"{lines}\nThis one is a rude word.",
        "Menu\nHome\nAbout",
        "Only this one is a sentence.",
        GERMAN,
    ]
    (raw / "a.warc.wet").write_bytes(b"".join(map(conversion, texts)))
    source = c4_from_crawl_source(bad_words=tmp_path / "words.txt")
    manifest = build_documents(source, raw, tmp_path / "out")
    (row,) = load_documents(tmp_path / "out")
    assert row["text"] == lines
    assert manifest.dropped == {
        "bad_word": 1,
        "curly_bracket": 1,
        "few_sentences": 1,
        "no_good_line": 1,
        "other_language": 1,
        "placeholder_text": 1,
    }
