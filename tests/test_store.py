"""Documents into the token store: encoding, the held-out split, reuse and replacement."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from datasets import Dataset, load_from_disk
from test_tokenization import HOSTILE, corpus, prose
from transformers import AutoTokenizer

from data_pipeline.shards import TokenStore
from data_pipeline.tokenization import (
    TokenizerConfig,
    build_store,
    encode_documents,
    train_tokenizer,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer") / "small"
    train_tokenizer(corpus(prose()), folder, TokenizerConfig(vocab_size=400))
    return folder


def test_a_folder_with_something_else_is_not_replaced(tmp_path: Path, trained: Path) -> None:
    (tmp_path / "diary.txt").write_text("keep me")
    with pytest.raises(ValueError, match="is not a token store; name another place"):
        build_store(tmp_path, {"a": corpus(prose())}, trained, holdout_share=0.1, num_proc=1)
    assert (tmp_path / "diary.txt").read_text() == "keep me"


@pytest.mark.parametrize("num_proc", [1, 2])
def test_encode_documents(trained: Path, tmp_path: Path, num_proc: int) -> None:
    texts = [*HOSTILE, "x" * 200_000] * 5  # enough for two processes
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
        "rows = {'id': [f'{i << 24:032x}' for i in range(200)], 'text': ['a b'] * 200}\n"
        "build_store(Path(sys.argv[1]), {'a': Dataset.from_dict(rows)}, Path(sys.argv[2]),\n"
        "            holdout_share=0.1, num_proc=2)\n"
    )
    root = Path(__file__).parents[1]
    command = [sys.executable, str(script), str(tmp_path / "s"), str(trained)]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(root)}, timeout=120)
    assert TokenStore.open(tmp_path / "s").stream("a", "train").num_documents == 174
