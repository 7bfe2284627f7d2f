"""Encoding by units: the ids of SentencePiece for every text, and bounded memory."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.tokens import unit_encoder
from data_pipeline.tokens.exact_cuts import Cuts, LongCuts, can_be_cut, literal_processor
from data_pipeline.tokens.huggingface_tokenizer import BLANK
from data_pipeline.tokens.sentencepiece_encoder import SentencePieceEncoder
from data_pipeline.tokens.tokenizer_comparison import compare_tokenizers, table
from data_pipeline.tokens.tokenizer_training import TokenizerConfig, train_tokenizer
from data_pipeline.tokens.unit_encoder import EncoderSizes
from tests.support.tokenizer_texts import HOSTILE, corpus, prose


def train(folder: Path, **options: Any) -> Path:
    """A model of LLaMA's kind, but for `options`, in a tokenizer folder."""
    folder.mkdir(exist_ok=True)
    model = io.BytesIO()
    llama: dict[str, Any] = {
        "model_type": "bpe",
        "vocab_size": 500,
        "byte_fallback": True,
        "split_digits": True,
        "allow_whitespace_only_pieces": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter("\n".join(prose()).split("\n")),
        model_writer=model,
        minloglevel=2,
        **llama | options,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    return folder


def processor_of(folder: Path) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


def same_ids(encoder: SentencePieceEncoder, folder: Path, texts: Sequence[str]) -> None:
    encoded = encoder.encode(texts)
    assert encoded.num_byte_tokens == encoder.num_byte_tokens(encoded.tokens)
    expected = processor_of(folder).encode(list(texts), add_bos=True, add_eos=True, num_threads=1)
    assert encoded.offsets[0] == 0
    assert len(encoded.offsets) == len(texts) + 1
    for text, start, end, ids in zip(
        texts, encoded.offsets[:-1], encoded.offsets[1:], expected, strict=True
    ):
        assert encoded.tokens[start:end].tolist() == ids, repr(text[:1_000])


@pytest.fixture(scope="module", params=["trained", "crossing", "published"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model; one whose pieces hold several words and digits; LLaMA's own."""
    if request.param == "published":
        return Path(request.getfixturevalue("samples"), "tokenizer")
    out = tmp_path_factory.mktemp("tokenizer")
    crossing = {"split_by_whitespace": False, "split_digits": False, "split_by_number": False}
    return train(out, **(crossing if request.param == "crossing" else {}))


SMALL = EncoderSizes(window_bytes=7, long_unit_bytes=20, cache_bytes=2_000, unsure_tokens=2)
"""Windows, long units and the cache are so small that short texts go through all of them."""


# Characters of every kind, and those at which something could go wrong: blanks in both forms, what
# looks like special tokens, characters of several bytes that no vocabulary has.
ALPHABET = (
    f" {BLANK}\n\r\t\0aeAE09.,'({{<s>/_-"
    "éñжЯΩ中文字。あ한ﬁ\u0301\u00a0\u200d\ufeff\ufffd😀👍🏽\U0010ffff"
)


@pytest.mark.slow
def test_any_text(folder: Path) -> None:
    processor = processor_of(folder)
    pieces = [processor.id_to_piece(i) for i in range(processor.vocab_size())]
    encoder = SentencePieceEncoder(folder, SMALL)

    @settings(max_examples=150, deadline=None)
    @given(
        st.lists(
            st.text(max_size=60)
            | st.text(ALPHABET, max_size=60)
            | st.lists(st.sampled_from(pieces), max_size=25).map("".join)
            | st.lists(st.sampled_from(pieces), max_size=25).map(
                lambda drawn: "".join(drawn).replace(BLANK, " ")
            )
            | st.builds(
                lambda character, count: character * count,
                st.sampled_from(ALPHABET),
                st.integers(0, 90),
            ),
            max_size=5,
        )
    )
    def check(texts: list[str]) -> None:
        same_ids(encoder, folder, texts)

    check()


@pytest.mark.slow
def test_long_units_are_cut_where_tokens_prove_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    places = LongCuts.places

    def watched(self: LongCuts, text: bytes, size: int) -> list[int]:
        found = places(self, text, size)
        sizes.append(np.diff([0, *found, len(text)]).max())
        return found

    monkeypatch.setattr(LongCuts, "places", watched)
    rng = random.Random(0)
    alphabets = ("ab", "aeio", "e中😀", "ACGT", BLANK + " ", "😀👍🏽", "\u0430", "===-")
    texts = ["".join(rng.choices(alphabet, k=300)) for alphabet in alphabets for _ in range(10)]
    same_ids(SentencePieceEncoder(folder, SMALL), folder, texts)
    # In so few tokens there is not always a place.
    assert sum(size <= 20 for size in sizes) >= 10


def test_long_units_are_cut_into_parts_of_the_size_asked_for(folder: Path) -> None:
    cuts = LongCuts(literal_processor(processor_of(folder)))
    rng = random.Random(0)
    for alphabet in ("e", "ACGT", "aeiou", " ", "😀", "中"):
        text = "".join(rng.choices(alphabet, k=30_000)).encode()
        places = cuts.places(text, 4_096)
        assert all(2_000 < size <= 4_096 for size in np.diff([0, *places]))
        assert len(text) - places[-1] <= 4_096


def test_neighbours_of_every_kind(folder: Path) -> None:
    rng = random.Random(0)
    processor = processor_of(folder)
    pieces = [processor.id_to_piece(i).replace(BLANK, " ") for i in range(3, len(processor))]
    texts = ["".join(rng.choices(ALPHABET, k=rng.randrange(1, 60))) for _ in range(1_000)]
    same_ids(SentencePieceEncoder(folder), folder, texts)
    same_ids(
        SentencePieceEncoder(folder),
        folder,
        ["".join(rng.choices(pieces, k=8)) for _ in range(2_000)],
    )


def test_hostile_texts_in_one_batch_and_in_many(folder: Path) -> None:
    encoder = SentencePieceEncoder(folder)
    texts = [*HOSTILE, *prose(), "x" * 200_000, "ab" * 100_000, "", ""]
    same_ids(encoder, folder, texts)
    for text in texts:  # now with what is known from before
        same_ids(encoder, folder, [text])


@pytest.mark.slow
def test_samples(folder: Path, samples: Path) -> None:
    texts = []
    for name in ("c4/c4-en-sample.00000-00700.json.gz", "github/contents-sample.jsonl.gz"):
        with gzip.open(samples / "raw" / name) as lines:
            texts += [str(value) for line in lines for value in json.loads(line).values()]
    for path in sorted((samples / "raw").rglob("*")):
        if path.is_file():  # as it is, compressed or not
            texts.append(path.read_bytes()[:20_000].decode("utf-8", "replace"))
    same_ids(SentencePieceEncoder(folder), folder, texts)


def test_one_long_document(folder: Path) -> None:
    # Several windows, and a unit that is longer than one.
    encoder = SentencePieceEncoder(folder, EncoderSizes(window_bytes=1 << 17))
    texts = "".join(text + " " for text in prose())
    same_ids(encoder, folder, [texts * 5 + "e" * 500_000 + texts * 5])


def test_what_is_kept_is_bounded(tmp_path: Path) -> None:
    folder = train(tmp_path)
    processor = processor_of(folder)
    units = unit_encoder.UnitEncoder(processor, "uint16", EncoderSizes(cache_bytes=100_000))
    rng = random.Random(0)
    for _ in range(20):
        text = " ".join("".join(rng.choices("aeiou", k=8)) for _ in range(200))
        tokens, starts = units.encode([text])
        assert tokens.tolist() == processor.encode(text, add_bos=True, add_eos=True)
        assert starts.tolist() == [0, len(tokens)]
        # Nothing is forgotten within a window; then it is as if there had been nothing before.
        assert len(units._numbers) < 100_000 / unit_encoder._BYTES_PER_UNIT + 300
    assert len(units._numbers) > 0


def test_ids_of_four_bytes(tmp_path: Path) -> None:
    folder = train(tmp_path)
    tokens, _ = unit_encoder.UnitEncoder(processor_of(folder), "uint32").encode(HOSTILE)
    assert tokens.dtype == np.uint32
    assert tokens.tolist() == SentencePieceEncoder(folder).encode(HOSTILE).tokens.tolist()


@pytest.mark.parametrize(
    "options",
    [
        {"model_type": "unigram", "hard_vocab_limit": False},
        {"byte_fallback": False, "character_coverage": 0.98},
        {"user_defined_symbols": ["e a", "<sep>"]},
        {"normalization_rule_name": "nmt_nfkc"},
        {"remove_extra_whitespaces": True},
        {"add_dummy_prefix": False},
        {"treat_whitespace_as_suffix": True},
    ],
    ids=lambda options: next(iter(options)),
)
def test_other_models_go_through_sentencepiece(tmp_path: Path, options: dict[str, Any]) -> None:
    folder = train(tmp_path, **options)
    assert not can_be_cut(processor_of(folder))
    same_ids(SentencePieceEncoder(folder), folder, [*HOSTILE, *prose()])


def test_words_are_units_of_llama(samples: Path) -> None:
    processor = processor_of(samples / "tokenizer")
    assert can_be_cut(processor)
    text = b" A word, 1984 (x=y).\n\n  indented\tna\xc3\xafve"
    places = [0, *np.flatnonzero(Cuts(processor).between(text)) + 1, len(text)]
    units = [text[a:b].decode() for a, b in itertools.pairwise(places)]
    assert units == [
        *(" A", " word", ",", " ", "1", "9", "8", "4", " (", "x", "=", "y", ").", "\n", "\n"),
        *("  indented", "\t", "naïve"),
    ]


def test_literal_processor_has_no_blank_in_front(tmp_path: Path) -> None:
    processor = processor_of(train(tmp_path))
    literal = literal_processor(processor)
    assert literal.encode(" then") == processor.encode("then")
    assert literal.encode("then") != processor.encode("then")


def test_tokenizers_are_compared(tmp_path: Path) -> None:
    documents = corpus([*prose(), "\u6f22\u5b57" * 50], 3)
    trained, bigger = tmp_path / "trained", tmp_path / "bigger"
    for folder, size in ((trained, 400), (bigger, 450)):
        train_tokenizer(corpus(prose()), folder, TokenizerConfig(vocab_size=size))
    fits = compare_tokenizers(
        documents, {"small": trained, "big": bigger}, bytes_per_source=10_000_000
    )
    small, big = fits
    texts = [*prose(), "\u6f22\u5b57" * 50]
    assert small.num_text_bytes == big.num_text_bytes == sum(len(t.encode()) for t in texts)
    processor = processor_of(trained)
    assert small.num_tokens == sum(len(processor.encode(text)) for text in texts)
    assert big.bytes_per_token > small.bytes_per_token
    # 100 characters of 3 bytes, of which the text that it was trained on has none.
    assert small.num_byte_tokens == 300
    assert "small" in table(fits)
    few = compare_tokenizers(documents, {"small": trained}, bytes_per_source=1_000)
    assert 1_000 <= few[0].num_text_bytes < small.num_text_bytes
