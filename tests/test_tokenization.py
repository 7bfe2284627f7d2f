"""Tokenizer training and export, and documents into the token store."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from datasets import Dataset, load_from_disk
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from data_pipeline.huggingface_tokenizer import BLANK
from data_pipeline.shards import TokenStore
from data_pipeline.tokenization import (
    TokenizerConfig,
    build_store,
    encode_documents,
    export_tokenizer,
    train_tokenizer,
)

HOSTILE = [
    "",
    " ",
    "  ",
    "   leading spaces",
    "trailing spaces   ",
    "\t\ttabs\tand\n\nnewlines\r\n",
    "NUL \0 inside, \x1b control, \x7f",
    "emoji 🦙🏽‍🚀 and flags 🇫🇷",
    "漢字とかな 한국어 ไทย العربية",
    "combining e\u0301 and \u00e9, ligature \ufb01",
    f"literal {BLANK} blank {BLANK}{BLANK}",
    "a <s> in </s> text <unk> and <0x41>",
    "<s>",
    "1234567890 3.14159 2**64",
    "\ufeffBOM, \u200b zero width, \u2028 line separator, \U0010ffff last",
    " " * 777,
    "a" * 1_000,
    "word " * 5_000,
    "for i in range(10):\n        if i == 3:\n\t\treturn [[i] * 4]\n",
]


def corpus(texts: list[str]) -> Dataset:
    return Dataset.from_dict(
        {"id": [hashlib.md5(text.encode()).hexdigest() for text in texts], "text": texts}
    )


def prose() -> list[str]:
    """Text with runs of blanks, digits, rare characters and repetition, the same every time."""
    rng = random.Random(0)
    words = [
        "the",
        "then",
        "there",
        "hen",
        "aa",
        "aaa",
        "baab",
        "==",
        "====",
        "x1",
        "naïve",
        "日本",
    ]
    documents = []
    for _ in range(60):
        lines = []
        for _ in range(20):
            indent = " " * rng.choice([0, 0, 1, 2, 4, 8, 12])
            lines.append(indent + " ".join(rng.choices(words, k=8)))
        documents.append("\n".join(lines))
    return documents


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
    assert tokenizer.tokenize("x1234") == [f"{BLANK}x", "1", "2", "3", "4"]
    assert tokenizer.tokenize("🦙") == [BLANK, "<0xF0>", "<0x9F>", "<0xA6>", "<0x99>"]
    assert BLANK * 4 in tokenizer.get_vocab()
    assert [tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id] == [0, 1, 2]
    assert tokenizer.pad_token is None
    assert len(tokenizer) == 400


def test_same_text_and_config_same_bytes(trained: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    train_tokenizer(corpus(prose()), again, TokenizerConfig(vocab_size=400, num_threads=2))
    for name in ("tokenizer.model", "tokenizer.json", "tokenizer_config.json", "manifest.json"):
        assert (again / name).read_bytes() == (trained / name).read_bytes(), name


def test_seed_chooses_the_sample(tmp_path: Path) -> None:
    models = []
    for seed in (0, 1):
        config = TokenizerConfig(vocab_size=300, sample_bytes=1_500, seed=seed)
        train_tokenizer(corpus(prose()), tmp_path / str(seed), config)
        models.append((tmp_path / str(seed) / "tokenizer.model").read_bytes())
    assert models[0] != models[1]


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
        (["abab abab"], 32_000, r"vocab_size \(32000\) is larger .* at most (\d+)\).*--tokenizer"),
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


@pytest.mark.parametrize("name", ["vocab_size", "sample_bytes", "num_threads"])
def test_config_must_be_positive(name: str) -> None:
    with pytest.raises(ValueError, match=rf"tokenizer.{name} \(0\) must be positive"):
        TokenizerConfig(**{name: 0})


def test_a_folder_with_something_else_is_not_replaced(tmp_path: Path, trained: Path) -> None:
    (tmp_path / "diary.txt").write_text("keep me")
    with pytest.raises(ValueError, match="is not a tokenizer; name another place"):
        train_tokenizer(corpus(prose()), tmp_path, TokenizerConfig(vocab_size=300))
    with pytest.raises(ValueError, match="is not a token store; name another place"):
        build_store(tmp_path, {"a": corpus(prose())}, trained, holdout_share=0.1, num_proc=1)
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


# --- documents -> store -----------------------------------------------------------------------


@pytest.mark.parametrize("num_proc", [1, 2])
def test_encode_documents(trained: Path, tmp_path: Path, num_proc: int) -> None:
    texts = [*HOSTILE, "x" * 200_000]
    processor = sentencepiece.SentencePieceProcessor(model_file=str(trained / "tokenizer.model"))
    encoded = encode_documents(corpus(texts), trained, num_proc, tmp_path / "cache.arrow")
    assert encoded["id"][:] == corpus(texts)["id"][:]
    assert encoded.features["input_ids"].feature.dtype == "uint16"
    for text, ids, size in zip(texts, encoded["input_ids"], encoded["num_text_bytes"], strict=True):
        assert ids == [1, *processor.encode(text), 2]
        assert size == len(text.encode())


def test_encoding_leaves_nothing_behind_and_heeds_the_tokenizer(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An earlier run with another tokenizer in the same place must not be picked up.
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "home")
    out, folder, documents = tmp_path / "store", tmp_path / "tokenizer", corpus(prose())
    tokens = []
    for vocab_size in (300, 400):
        train_tokenizer(documents, folder, TokenizerConfig(vocab_size=vocab_size))
        build_store(out, {"a": documents}, folder, holdout_share=0.1, num_proc=1)
        store = TokenStore.open(out)
        store.verify()
        assert store.manifest.vocab_size == vocab_size
        tokens.append(store.stream("a", "train").num_tokens)
        assert sorted(path.name for path in out.iterdir()) == ["a", "manifest.json", "tokenizer"]
    assert tokens[0] > tokens[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store", "tokenizer"]


def test_store_holds_every_document_once(trained: Path, tmp_path: Path) -> None:
    texts, out = prose(), tmp_path / "store"
    sources = {"books": corpus(texts[:40]), "code": corpus(texts[40:])}
    build_store(out, sources, trained, holdout_share=0.2, num_proc=2)
    store = TokenStore.open(out)
    tokenizer: Any = AutoTokenizer.from_pretrained(store.tokenizer_dir)
    for source, dataset in sources.items():
        found = []
        for split in ("train", "validation"):
            rows = load_from_disk(out / source / split)
            held_out = [int(name, 16) % 2**32 < 0.2 * 2**32 for name in rows["id"]]
            assert held_out == [split == "validation"] * len(rows)
            found += [tokenizer.decode(ids, skip_special_tokens=True) for ids in rows["input_ids"]]
            entry = store.manifest.sources[source][split]
            flat = np.concatenate(rows["input_ids"])
            assert entry.num_tokens == len(flat)
            assert entry.num_documents == len(rows)
            stream = store.stream(source, split)
            np.testing.assert_array_equal(stream.window(0, stream.num_tokens), flat)
        assert sorted(found) == sorted(dataset["text"])
        counts = store.manifest.sources[source].values()
        assert sum(split.num_text_bytes for split in counts) == sum(
            len(text.encode()) for text in dataset["text"]
        )


def test_a_finished_store_is_kept_and_a_changed_one_is_not(trained: Path, tmp_path: Path) -> None:
    out, texts = tmp_path / "store", prose()[:10]
    build_store(out, {"a": corpus(texts)}, trained, holdout_share=0.2, num_proc=1)
    first = out.stat().st_ino
    build_store(out, {"a": corpus(texts)}, trained, holdout_share=0.2, num_proc=1)
    assert out.stat().st_ino == first
    build_store(out, {"a": corpus(texts[:9])}, trained, holdout_share=0.2, num_proc=1)
    assert out.stat().st_ino != first
    shard = next(out.glob("a/train/*.arrow"))
    os.truncate(shard, 10)
    build_store(out, {"a": corpus(texts[:9])}, trained, holdout_share=0.2, num_proc=1)
    TokenStore.open(out).verify()


def rows(*ids: int) -> Dataset:
    texts = [f"document {number}" for number in ids]
    return Dataset.from_dict({"id": [f"{number:032x}" for number in ids], "text": texts})


LOW, HIGH = 5, 2**32 - 7  # below and above any share of 2**32 used here


@pytest.mark.parametrize(
    ("ids", "share", "validation"),
    [
        ((HIGH, LOW, HIGH - 1), 0.1, [LOW]),
        ((HIGH, HIGH - 2, HIGH - 1), 0.1, [HIGH - 2]),  # none by the rule: the smallest id
        ((LOW, LOW + 2, LOW + 1), 0.1, [LOW, LOW + 1]),  # all by the rule: the largest id trains
        ((LOW + 2**32, HIGH), 0.1, [LOW + 2**32]),  # only the low 32 bits count
        ((LOW, HIGH), 0.0, []),
        ((LOW,), 0.0, []),
    ],
)
def test_held_out_documents(
    trained: Path, tmp_path: Path, ids: tuple[int, ...], share: float, validation: list[int]
) -> None:
    out = tmp_path / "store"
    build_store(out, {"a": rows(*ids)}, trained, holdout_share=share, num_proc=1)
    folder = out / "a" / "validation"
    found = load_from_disk(folder)["id"][:] if validation else []
    assert sorted(int(name, 16) for name in found) == sorted(validation)
    splits = TokenStore.open(out).manifest.sources["a"]
    assert splits["validation"].num_documents == len(validation)
    assert splits["train"].num_documents == len(ids) - len(validation)


@pytest.mark.parametrize(
    ("documents", "share", "message"),
    [
        ({"a": rows(LOW)}, 0.1, "no source has two documents .* set holdout_share to 0"),
        ({"a": rows()}, 0.1, "there are no documents"),
        ({"a/b": rows(LOW, HIGH)}, 0.1, "cannot name a folder"),
        ({"tokenizer": rows(LOW, HIGH)}, 0.1, "cannot name a folder"),
        ({"a": rows(LOW, HIGH)}, 1.0, r"holdout_share \(1.0\) must be"),
    ],
)
def test_documents_that_make_no_store(
    trained: Path, tmp_path: Path, documents: dict[str, Dataset], share: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build_store(tmp_path / "s", documents, trained, holdout_share=share, num_proc=1)
    assert not (tmp_path / "s").exists()


def test_a_source_without_documents_is_recorded_as_empty(trained: Path, tmp_path: Path) -> None:
    documents = {"a": rows(LOW, HIGH), "none": rows(), "one": rows(LOW)}
    build_store(tmp_path / "s", documents, trained, holdout_share=0.1, num_proc=1)
    store = TokenStore.open(tmp_path / "s")
    assert store.stream("none", "train").num_documents == 0
    assert store.stream("one", "train").num_documents == 1  # a lone document trains


def test_main_script_may_have_any_name(trained: Path, tmp_path: Path) -> None:
    # Recipes are `.sh` files that Python runs; worker processes must not trip over the name.
    script = tmp_path / "build.sh"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from datasets import Dataset\n"
        "from data_pipeline.tokenization import build_store\n"
        "rows = {'id': [f'{i:032x}' for i in range(20)], 'text': ['a b'] * 20}\n"
        "build_store(Path(sys.argv[1]), {'a': Dataset.from_dict(rows)}, Path(sys.argv[2]),\n"
        "            holdout_share=0.1, num_proc=2)\n"
    )
    root = Path(__file__).parents[1]
    command = [sys.executable, str(script), str(tmp_path / "s"), str(trained)]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(root)}, timeout=120)
    assert TokenStore.open(tmp_path / "s").stream("a", "train").num_documents == 19
