"""Fast encoding against SentencePiece itself, id for id."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tokenization import HOSTILE, corpus, prose

from data_pipeline import encoding
from data_pipeline.encoding import Encoder, has_borders, load_processor
from data_pipeline.tokenizer_comparison import compare_tokenizers, table
from data_pipeline.tokenizer_folder import export_tokenizer
from data_pipeline.tokenizer_training import TokenizerConfig, train_tokenizer


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer") / "small"
    train_tokenizer(corpus(prose()), folder, TokenizerConfig(vocab_size=400))
    return folder


@pytest.fixture(scope="module")
def llama(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LLaMA's published tokenizer."""
    folder = tmp_path_factory.mktemp("tokenizer") / "llama"
    export_tokenizer(samples / "tokenizer" / "tokenizer.model", folder)
    return folder


@pytest.fixture(params=["trained", "llama"])
def tokenizer(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.getfixturevalue(request.param)
    assert has_borders(load_processor(folder))
    return folder


def assert_equal(folder: Path, texts: list[str], encoder: Encoder | None = None) -> None:
    processor = load_processor(folder)
    encoded = (encoder or Encoder(folder)).encode(texts)
    documents = np.split(encoded.tokens, encoded.offsets[1:-1])
    assert len(documents) == len(texts)
    for text, ids in zip(texts, documents, strict=True):
        expected = [processor.bos_id(), *processor.encode(text), processor.eos_id()]
        assert ids.tolist() == expected, repr(text[:200])


CHARACTERS = "ab,. \n\t1(_\0<s>\r" + (
    "\u2581\u00e9\u2019\u201d\u00ab\u6f22\u0301\u200d\U0001f999\u00a0\ufeff\u2028"
)


@given(st.lists(st.text(CHARACTERS, max_size=30) | st.text(max_size=20), min_size=1, max_size=4))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_text(trained: Path, texts: list[str]) -> None:
    texts = [text.encode("utf-8", "ignore").decode() for text in texts]  # no lone surrogates
    assert_equal(trained, texts)


def test_hostile_texts(tokenizer: Path) -> None:
    assert_equal(tokenizer, [*HOSTILE, *prose()])


def test_neighbours_of_every_kind(tokenizer: Path) -> None:
    """Random strings of few characters: every two kinds stand beside each other."""
    rng = random.Random(0)
    texts = ["".join(rng.choices(CHARACTERS, k=rng.randrange(1, 60))) for _ in range(1_500)]
    assert_equal(tokenizer, texts)


def test_pieces_side_by_side(tokenizer: Path) -> None:
    processor = load_processor(tokenizer)
    rng = random.Random(1)
    pieces = [processor.id_to_piece(i).replace("\u2581", " ") for i in range(3, len(processor))]
    assert_equal(tokenizer, ["".join(rng.choices(pieces, k=8)) for _ in range(2_000)])


def test_real_files(samples: Path, llama: Path) -> None:
    texts = [
        path.read_bytes().decode("utf-8", "replace")[:200_000]
        for path in sorted((samples / "raw").glob("*/*/*"))
        if path.suffix in (".txt", ".xml", ".html", ".tex", ".py", ".jsonl")
    ]
    assert len(texts) > 20
    assert_equal(llama, texts)


@pytest.mark.parametrize("size", [1, 7, 40])
def test_long_texts_are_cut_at_borders(
    tokenizer: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(encoding, "_SLICE_CHARACTERS", size)
    assert_equal(tokenizer, [*HOSTILE[:16], *prose()[:10], "x" * 100, ("y" * 30 + " ") * 5])


def test_the_table_is_bounded(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "_MAX_CHUNKS", 50)
    monkeypatch.setattr(encoding, "_MAX_CHUNK_CHARACTERS", 5)
    encoder = Encoder(trained)
    assert encoder._chunks is not None
    for text in prose():
        assert_equal(trained, [text], encoder)
        table = encoder._chunks._ids
        assert len(table) <= max(50, len(set(text.split())) * 3)
        assert all(len(chunk) <= 5 for chunk in table)


@pytest.mark.parametrize(
    "options",
    [
        {"split_digits": False},
        {"split_by_unicode_script": False},
        {"split_by_whitespace": False},
        {"normalization_rule_name": "nmt_nfkc"},
        {"user_defined_symbols": ["x,", "12"]},
    ],
)
def test_models_without_borders_go_through_sentencepiece(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    rng = random.Random(2)
    words = ["ab,c", "12 3", "1234", "x-ray", "don't", "don't do", "a b", "(a)", "12ab"]
    lines = [" ".join(rng.choices(words, k=12)) for _ in range(300)]
    model = io.BytesIO()
    settings: dict[str, Any] = {
        "split_digits": True,
        "normalization_rule_name": "identity",
        **options,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=300,
        byte_fallback=True,
        remove_extra_whitespaces=False,
        minloglevel=2,
        hard_vocab_limit=False,
        **(settings | options),
    )
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    assert not has_borders(load_processor(tmp_path))
    assert_equal(tmp_path, [*lines[:20], *HOSTILE])


def test_tokenizers_are_compared(trained: Path, tmp_path: Path) -> None:
    documents = corpus([*prose(), "\u6f22\u5b57" * 50], 3)
    bigger = tmp_path / "bigger"
    train_tokenizer(corpus(prose()), bigger, TokenizerConfig(vocab_size=450))
    fits = compare_tokenizers(
        documents, {"small": trained, "big": bigger}, bytes_per_source=10_000_000
    )
    small, big = fits
    texts = [*prose(), "\u6f22\u5b57" * 50]
    assert small.num_text_bytes == big.num_text_bytes == sum(len(t.encode()) for t in texts)
    processor = load_processor(trained)
    assert small.num_tokens == sum(len(processor.encode(text)) for text in texts)
    assert big.bytes_per_token > small.bytes_per_token
    # 100 characters of 3 bytes, of which the text that it was trained on has none.
    assert small.num_byte_tokens == 300
    assert "small" in table(fits)
    few = compare_tokenizers(documents, {"small": trained}, bytes_per_source=1_000)
    assert 1_000 <= few[0].num_text_bytes < small.num_text_bytes
