"""Tokenizer training, and its Hugging Face form id for id."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from data_pipeline.executors.local import Processes
from data_pipeline.tokens import word_counts
from data_pipeline.tokens.huggingface_tokenizer import BLANK
from data_pipeline.tokens.sentencepiece_encoder import load_processor
from data_pipeline.tokens.tokenizer_folder import export_tokenizer
from data_pipeline.tokens.tokenizer_training import (
    TokenizerConfig,
    lines_for_training,
    train_tokenizer,
)
from data_pipeline.tokens.word_counts import count_words
from tests.support.tokenizer_texts import HOSTILE, corpus, prose
from tests.support.written_documents import text_rows, write_documents


def same_ids(folder: Path, texts: list[str]) -> None:
    """Hugging Face's ids equal SentencePiece's for every text, and decoding gives the text back."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    expected = processor.encode(texts, num_threads=1)
    found = tokenizer(texts, split_special_tokens=True).input_ids
    for text, ids, with_bos in zip(texts, expected, found, strict=True):
        assert with_bos == [processor.bos_id(), *ids], repr(text)
        assert tokenizer.decode(ids) == text.replace(BLANK, " "), repr(text)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer") / "small"
    train_tokenizer(corpus(prose()), folder, TokenizerConfig(vocab_size=400))
    return folder


# --- training ---------------------------------------------------------------------------------


def test_folder(trained: Path) -> None:
    assert sorted(path.name for path in trained.iterdir()) == [
        "manifest.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
    ]
    manifest = json.loads((trained / "manifest.json").read_text())
    model = (trained / "tokenizer.model").read_bytes()
    assert manifest["sha256"] == hashlib.sha256(model).hexdigest()
    assert manifest["vocab_size"] == 400
    assert manifest["config"]["sample_bytes"] == 1_000_000_000


def test_settings_of_the_paper(trained: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(trained)
    assert tokenizer.tokenize("x1984")[-4:] == ["1", "9", "8", "4"]
    assert tokenizer.tokenize("🦙") == [BLANK, "<0xF0>", "<0x9F>", "<0xA6>", "<0x99>"]
    assert BLANK * 4 in tokenizer.get_vocab()
    assert [tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id] == [0, 1, 2]
    assert tokenizer.pad_token is None
    assert len(tokenizer) == 400


def test_same_text_and_config_same_bytes(trained: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    train_tokenizer(corpus(prose()), again, TokenizerConfig(vocab_size=400))
    for name in ("tokenizer.model", "tokenizer.json", "tokenizer_config.json", "manifest.json"):
        assert (again / name).read_bytes() == (trained / name).read_bytes(), name


def test_seed_chooses_the_sample(tmp_path: Path) -> None:
    models = []
    for seed in (0, 1):
        config = TokenizerConfig(vocab_size=300, sample_bytes=20_000, seed=seed)
        train_tokenizer(corpus(prose()), tmp_path / str(seed), config)
        models.append((tmp_path / str(seed) / "tokenizer.model").read_bytes())
    assert models[0] != models[1]


@pytest.mark.parametrize(
    ("shares", "sample_bytes", "expected"),
    [
        (None, 40_000, {"a": 20_000, "b": 20_000}),  # both have the same size
        ({"a": 0.75, "b": 0.25}, 40_000, {"a": 30_000, "b": 10_000}),
        # What is left of a source is taken whole, and the other one fills up.
        ({"a": 0.99, "b": 0.01}, 150_000, {"a": 100_000, "b": 50_000}),
        ({"a": 0.5, "b": 0.5}, 10**9, {"a": 100_000, "b": 100_000}),
    ],
)
def test_the_sample_has_the_shares(
    tmp_path: Path,
    shares: dict[str, float] | None,
    sample_bytes: int,
    expected: dict[str, int],
) -> None:
    documents = {
        name: write_documents(
            tmp_path / name, text_rows([f"{name}{n:03}" + " 12345" * 16 for n in range(1_000)])
        )
        for name in ("a", "b")
    }
    config = TokenizerConfig(vocab_size=273, sample_bytes=sample_bytes)
    train_tokenizer(documents, tmp_path / "t", config, shares=shares)
    sample = json.loads((tmp_path / "t" / "manifest.json").read_text())["sample"]
    # Documents of 100 bytes, each chosen with a chance: five standard deviations.
    assert sample == pytest.approx(expected, abs=5 * 100 * math.sqrt(250))
    assert sum(sample.values()) <= sample_bytes
    if shares is not None and sample_bytes > 100_000:
        assert sample["a"] == expected["a"]
    with pytest.raises(ValueError, match="no share for b"):
        train_tokenizer(documents, tmp_path / "t", config, shares={"a": 1.0})


HARD_LINES = ["a\ttab\t\tinside \tbefore", "   indented  twice   ", "", " ", "\tx", "long " * 4_000]


@pytest.mark.parametrize("files", [1, 4])
def test_counts_of_words_train_as_all_text_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: int
) -> None:
    texts = [*prose(), *(f"{line}\n{line} end" for line in HARD_LINES)]
    config = TokenizerConfig(vocab_size=450)
    train_tokenizer(corpus(texts), tmp_path / "text", config)
    monkeypatch.setattr(word_counts, "_MAX_HELD", 30)
    monkeypatch.setattr(word_counts, "_BYTES_PER_BUCKET", 10_000)
    counting = dataclasses.replace(config, method="word_counts")
    train_tokenizer(corpus(texts, files), tmp_path / "counts", counting, executor=Processes(2))
    models = [load_processor(tmp_path / name) for name in ("text", "counts")]
    pieces = [[(m.id_to_piece(i), m.get_score(i)) for i in range(450)] for m in models]
    assert pieces[0] == pieces[1]
    assert any("\t" in piece for piece, _ in pieces[1])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["counts", "text"]


def test_the_rarest_words_go(tmp_path: Path) -> None:
    documents = corpus(["a b c d", "a b c", "a b", "a\u00a0x"])
    for wanted, expected in (
        (2, {"a": 3, "b": 3}),
        (3, {"a": 3, "b": 3, "c": 2}),
        (9, {"a": 3, "b": 3, "c": 2, "d": 1, "a\u00a0x": 1}),
    ):
        work = tmp_path / str(wanted)
        found = count_words(
            documents, lines_for_training, work, max_words=wanted, executor=Processes(1)
        )
        assert dict(found) == expected


def test_a_finished_tokenizer_is_kept_and_a_changed_one_is_not(tmp_path: Path) -> None:
    folder, texts = tmp_path / "t", prose()
    train_tokenizer(corpus(texts), folder, TokenizerConfig(vocab_size=300))
    first = folder.stat().st_ino
    train_tokenizer(corpus(texts), folder, TokenizerConfig(vocab_size=300))
    assert folder.stat().st_ino == first
    train_tokenizer(corpus(texts), folder, TokenizerConfig(vocab_size=301))
    assert len(AutoTokenizer.from_pretrained(folder)) == 301
    (folder / "tokenizer.model").write_bytes(b"damaged")
    train_tokenizer(corpus(texts), folder, TokenizerConfig(vocab_size=301))
    assert len((folder / "tokenizer.model").read_bytes()) > 1_000


def test_long_lines_and_reserved_characters_are_not_skipped(tmp_path: Path) -> None:
    # SentencePiece alone would pass over both documents.
    texts = ["zyzyx " * 60_000, "a \u2585 qvqvq " * 50]
    train_tokenizer(corpus(texts), tmp_path / "t", TokenizerConfig(vocab_size=275))
    vocab = AutoTokenizer.from_pretrained(tmp_path / "t").get_vocab()
    assert f"{BLANK}zyzyx" in vocab
    assert any("qv" in piece for piece in vocab)


@pytest.mark.parametrize(
    ("texts", "vocab_size", "message"),
    [
        (["abab abab"], 32_000, r"vocab_size \(32000\) is larger .*at most 269\); set --tokenizer"),
        (["abab abab"], 100, r"vocab_size \(100\) is smaller .*set --tokenizer.vocab-size"),
        (["", "\n\n"], 300, "no text to train a tokenizer on"),
    ],
)
def test_text_and_vocabulary_that_do_not_fit(
    tmp_path: Path, texts: list[str], vocab_size: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train_tokenizer(corpus(texts), tmp_path / "t", TokenizerConfig(vocab_size=vocab_size))
    assert list(tmp_path.iterdir()) == []


def test_largest_vocabulary_named_in_the_error_works(tmp_path: Path) -> None:
    texts = prose()
    with pytest.raises(ValueError, match="larger than the text supports") as error:
        train_tokenizer(corpus(texts), tmp_path / "t", TokenizerConfig(vocab_size=60_000))
    largest = int(str(error.value).split("--tokenizer.vocab-size ")[1].split()[0])
    train_tokenizer(corpus(texts), tmp_path / "t", TokenizerConfig(vocab_size=largest))
    same_ids(tmp_path / "t", HOSTILE)


@pytest.mark.parametrize("name", ["vocab_size", "sample_bytes"])
def test_config_must_be_positive(name: str) -> None:
    with pytest.raises(ValueError, match=rf"tokenizer.{name} \(0\) must be positive"):
        dataclasses.replace(TokenizerConfig(), **{name: 0})  # type: ignore[arg-type]


def test_a_folder_with_something_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("keep me")
    with pytest.raises(ValueError, match="is not a tokenizer; choose another path"):
        train_tokenizer(corpus(prose()), tmp_path, TokenizerConfig(vocab_size=300))
    assert (tmp_path / "diary.txt").read_text() == "keep me"


# --- Hugging Face form ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def llama(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama") / "tokenizer"
    export_tokenizer(samples / "tokenizer" / "tokenizer.model", folder)
    return folder


def test_hostile_strings(trained: Path) -> None:
    same_ids(trained, HOSTILE)


def test_hostile_strings_with_llamas_tokenizer(llama: Path) -> None:
    same_ids(llama, HOSTILE)


def test_any_string(trained: Path) -> None:
    @settings(max_examples=300, deadline=None)
    @given(st.text(max_size=40) | st.text("ab =1" + BLANK, max_size=60))
    def check(text: str) -> None:
        assert tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids == (
            processor.encode(text)
        )

    processor = sentencepiece.SentencePieceProcessor(model_file=str(trained / "tokenizer.model"))
    tokenizer: Any = AutoTokenizer.from_pretrained(trained)
    check()


@pytest.mark.parametrize("name", ["llama-spm-vectors.jsonl", "spm-reference-ids.jsonl"])
def test_published_ids(llama: Path, samples: Path, name: str) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(llama)
    lines = (samples / "tokenizer" / name).read_text().splitlines()
    for vector in map(json.loads, lines):
        ids = tokenizer(vector["text"], split_special_tokens=True).input_ids
        assert ids == [1, *vector["ids"]], repr(vector["text"])
    assert len(lines) >= 46


def tie_strings(alphabet: list[str], count: int) -> list[str]:
    rng = random.Random(1)
    return [
        "".join(rng.choices(rng.sample(alphabet, rng.randint(1, 3)), k=rng.randint(1, 50)))
        for _ in range(count)
    ]


@pytest.mark.parametrize("seed", range(4))
def test_ties_fall_alike_in_vocabularies_of_two_letters(tmp_path: Path, seed: int) -> None:
    # Trained to exhaustion, such vocabularies have pieces with many splits that overlap in text.
    rng = random.Random(seed)
    words = ["".join(rng.choices("ab", k=rng.randint(1, 14))) for _ in range(60)]
    text = "\n".join(" ".join(rng.choices(words, k=10)) for _ in range(50))
    with pytest.raises(ValueError, match="larger than the text supports") as error:
        train_tokenizer(corpus([text]), tmp_path / "t", TokenizerConfig(vocab_size=9_000))
    largest = int(str(error.value).split("--tokenizer.vocab-size ")[1].split()[0])
    train_tokenizer(corpus([text]), tmp_path / "t", TokenizerConfig(vocab_size=largest))
    same_ids(tmp_path / "t", tie_strings(["a", "b", "aa", "ba", "aab", " "], 3_000))


def test_ties_fall_alike_in_llamas_vocabulary(llama: Path) -> None:
    alphabet = [" ", "  ", "a", "aa", "=", "-", "e", " t", "he", "\t", "0", "é", "中", "\n"]
    same_ids(llama, tie_strings(alphabet, 5_000))
    same_ids(llama, [" " * n + "x" for n in range(100)])


def test_saved_again_it_is_the_same_tokenizer(trained: Path, tmp_path: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(trained)
    tokenizer.save_pretrained(tmp_path / "saved")
    again: Any = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert again(HOSTILE).input_ids == tokenizer(HOSTILE).input_ids
    assert again("a", "b").input_ids == tokenizer("a", "b").input_ids


def train_plainly(folder: Path, **options: Any) -> Path:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter("\n".join(prose()).split("\n")),
        model_prefix=str(folder / "m"),
        minloglevel=2,
        **options,
    )
    return folder / "m.model"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_type": "bpe", "vocab_size": 60}, "no byte fallback"),
        ({"model_type": "bpe", "vocab_size": 350, "byte_fallback": True}, "changes text"),
        (
            {
                "model_type": "unigram",
                "vocab_size": 320,
                "byte_fallback": True,
                "normalization_rule_name": "identity",
                "remove_extra_whitespaces": False,
            },
            "not BPE of LLaMA's kind|several pieces one score",
        ),
        (
            {
                "model_type": "bpe",
                "vocab_size": 350,
                "byte_fallback": True,
                "normalization_rule_name": "identity",
                "remove_extra_whitespaces": False,
                "user_defined_symbols": ["henthen"],
            },
            "not BPE of LLaMA's kind|several pieces one score",
        ),
    ],
)
def test_models_that_cannot_be_expressed_are_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        export_tokenizer(train_plainly(tmp_path, **options), tmp_path / "out")
    assert not (tmp_path / "out").exists()
