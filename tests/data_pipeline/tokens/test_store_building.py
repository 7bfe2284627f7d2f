"""Documents into the token store: encoding, the held-out split, reuse and replacement."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from datasets import load_from_disk
from transformers import AutoTokenizer

from data_pipeline.document import content_id
from data_pipeline.executors.local import Processes
from data_pipeline.tokens.provenance import document_at
from data_pipeline.tokens.sentencepiece_encoder import SentencePieceEncoder
from data_pipeline.tokens.store import SPLITS, TokenStore
from data_pipeline.tokens.store_building import build_store
from data_pipeline.tokens.tokenizer_training import TokenizerConfig, train_tokenizer
from tests.support.tokenizer_texts import HOSTILE, corpus, prose
from tests.support.written_documents import text_rows, write_documents

ONE = Processes(1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer") / "small"
    train_tokenizer(corpus(prose()), folder, TokenizerConfig(vocab_size=400))
    return folder


def test_a_folder_with_something_else_is_not_replaced(tmp_path: Path, trained: Path) -> None:
    (tmp_path / "diary.txt").write_text("keep me")
    documents = write_documents(tmp_path / "documents" / "a", text_rows(prose()))
    with pytest.raises(ValueError, match="is not a token store; choose another path"):
        build_store(tmp_path, {"a": documents}, trained, holdout_share=0.1, executor=ONE)
    assert (tmp_path / "diary.txt").read_text() == "keep me"


def test_encoded_documents(trained: Path) -> None:
    texts = [*HOSTILE, "x" * 200_000]
    processor = sentencepiece.SentencePieceProcessor(model_file=str(trained / "tokenizer.model"))
    encoded = SentencePieceEncoder(trained).encode(texts)
    assert encoded.tokens.dtype == np.uint16
    documents = np.split(encoded.tokens, encoded.offsets[1:-1])
    for text, ids in zip(texts, documents, strict=True):
        assert ids.tolist() == [1, *processor.encode(text), 2]
    pieces = [processor.id_to_piece(ids.tolist()) for ids in documents]
    assert encoded.num_byte_tokens == sum(
        re.fullmatch("<0x(?!0A)..>", piece) is not None for part in pieces for piece in part
    )
    assert encoded.num_byte_tokens > 0
    assert SentencePieceEncoder(trained).encode([]).tokens.tolist() == []


def test_encoding_leaves_nothing_behind_and_heeds_the_tokenizer(
    trained: Path, tmp_path: Path
) -> None:
    # An earlier run with another tokenizer in the same place must not be picked up.
    out, folder, documents = tmp_path / "store", tmp_path / "tokenizer", corpus(prose())
    written = write_documents(tmp_path / "a", text_rows(prose()))
    tokens = []
    for vocab_size in (300, 400):
        train_tokenizer(documents, folder, TokenizerConfig(vocab_size=vocab_size))
        build_store(out, {"a": written}, folder, holdout_share=0.1, executor=ONE)
        store = TokenStore.open(out)
        store.verify()
        assert store.manifest.vocab_size == vocab_size
        tokens.append(store.stream("a", "train").num_tokens)
        assert sorted(path.name for path in out.iterdir()) == ["a", "manifest.json", "tokenizer"]
        assert len(list((tmp_path / ".shards" / "store").iterdir())) == 1
    assert tokens[0] > tokens[1]
    names = [".shards", "a", "store", "tokenizer"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


@pytest.mark.parametrize("num_files", [1, 3])
def test_store_holds_every_document_once(trained: Path, tmp_path: Path, num_files: int) -> None:
    texts, out = prose(), tmp_path / "store"
    sources = {"books": texts[:40], "code": texts[40:]}
    folders = {
        name: write_documents(tmp_path / name, text_rows(part), num_files)
        for name, part in sources.items()
    }
    build_store(out, folders, trained, holdout_share=0.2, executor=Processes(2), shard_bytes=1)
    store = TokenStore.open(out)
    tokenizer: Any = AutoTokenizer.from_pretrained(store.tokenizer_dir)
    for source, expected in sources.items():
        found = []
        for split in SPLITS:
            rows = load_from_disk(out / source / split)
            held_out = [int(name, 16) % 2**32 < 0.2 * 2**32 for name in rows["id"]]
            assert held_out == [split == "validation"] * len(rows)
            found += [tokenizer.decode(ids, skip_special_tokens=True) for ids in rows["input_ids"]]
            entry = store.manifest.sources[source][split]
            flat = np.concatenate(rows["input_ids"])
            assert entry.num_tokens == len(flat)
            assert entry.num_documents == len(rows)
            assert len(entry.files) <= num_files
            num_bytes = sum(len(text.encode()) for text in found[-len(rows) :])
            assert entry.bytes_per_token == pytest.approx(
                num_bytes / (len(flat) - 2 * len(rows)), abs=1e-4
            )
            stream = store.stream(source, split)
            np.testing.assert_array_equal(stream.window(0, stream.num_tokens), flat)
        assert sorted(found) == sorted(expected)
        counts = store.manifest.sources[source].values()
        assert sum(split.num_text_bytes for split in counts) == sum(
            len(text.encode()) for text in expected
        )


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_any_number_of_processes_gives_the_same_bytes(trained: Path, tmp_path: Path) -> None:
    build = partial(build_store, holdout_share=0.2, shard_bytes=1)
    documents = write_documents(tmp_path / "a", text_rows(prose()), num_files=4)
    for jobs in (1, 3):
        out = tmp_path / str(jobs) / "store"
        build(out, {"a": documents}, trained, executor=Processes(jobs))
    assert files_of(tmp_path / "1" / "store") == files_of(tmp_path / "3" / "store")


def test_every_token_has_a_provenance(trained: Path, tmp_path: Path) -> None:
    rows = [
        {
            "text": text,
            "url": f"https://example.org/{number}",
            "license": "CC-BY-SA-4.0",
            "source_file": f"{number % 7}.gz",
            "offset": number,
        }
        for number, text in enumerate(prose())
    ]
    by_id = {content_id(str(row["text"])): row for row in rows}
    documents = write_documents(tmp_path / "a", rows, num_files=3)
    build_store(tmp_path / "s", {"a": documents}, trained, holdout_share=0.2, executor=ONE)
    store = TokenStore.open(tmp_path / "s")
    tokenizer: Any = AutoTokenizer.from_pretrained(store.tokenizer_dir)
    for split in SPLITS:
        stream = store.stream("a", split)
        starts = [*stream.window_starts(0, stream.num_tokens).tolist(), stream.num_tokens]
        for first, end in itertools.pairwise(starts):
            for position in (first, end - 1):
                found = document_at(store, "a", split, position)
                row = by_id[found.id]
                assert (found.first, found.url, found.offset) == (first, row["url"], row["offset"])
                assert found.source_file == row["source_file"]
            ids = stream.window(first, end - first)
            assert tokenizer.decode(ids, skip_special_tokens=True) == row["text"]
        with pytest.raises(ValueError, match="is out of range"):
            document_at(store, "a", split, stream.num_tokens)


def test_a_finished_store_is_kept_and_a_changed_one_is_not(trained: Path, tmp_path: Path) -> None:
    out, texts = tmp_path / "store", prose()[:40]

    def build(*texts: str) -> None:
        documents = write_documents(tmp_path / "a", text_rows(texts), num_files=2)
        build_store(out, {"a": documents}, trained, holdout_share=0.2, executor=ONE, shard_bytes=1)

    build(*texts)
    first = out.stat().st_ino
    shards = {path: path.stat().st_ino for path in (tmp_path / ".shards" / "store").iterdir()}
    build(*texts)
    assert out.stat().st_ino == first
    build(*texts[:-1], "another text")
    assert out.stat().st_ino != first
    again = {path: path.stat().st_ino for path in (tmp_path / ".shards" / "store").iterdir()}
    assert len(shards.items() & again.items()) == 1, "the shard that did not change is made again"
    arrow = next(out.glob("a/train/*.arrow"))
    arrow.unlink()
    build(*texts[:-1], "another text")
    TokenStore.open(out).verify()


def rows(*ids: int) -> list[dict[str, str]]:
    return [{"id": f"{number:032x}", "text": f"document {number}"} for number in ids]


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
    documents = write_documents(tmp_path / "a", rows(*ids), num_files=2)
    build_store(out, {"a": documents}, trained, holdout_share=share, executor=ONE)
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
    trained: Path,
    tmp_path: Path,
    documents: dict[str, list[dict[str, str]]],
    share: float,
    message: str,
) -> None:
    folders = {
        name: write_documents(tmp_path / str(index), part)
        for index, (name, part) in enumerate(documents.items())
    }
    with pytest.raises(ValueError, match=message):
        build_store(tmp_path / "s", folders, trained, holdout_share=share, executor=ONE)
    assert not (tmp_path / "s").exists()


def test_a_source_without_documents_is_recorded_as_empty(trained: Path, tmp_path: Path) -> None:
    documents = {"a": rows(LOW, HIGH), "none": rows(), "one": rows(LOW)}
    folders = {name: write_documents(tmp_path / name, part) for name, part in documents.items()}
    build_store(tmp_path / "s", folders, trained, holdout_share=0.1, executor=ONE)
    store = TokenStore.open(tmp_path / "s")
    assert store.stream("none", "train").num_documents == 0
    assert store.stream("one", "train").num_documents == 1  # a lone document trains


@pytest.mark.slow
def test_main_script_may_have_any_name(trained: Path, tmp_path: Path) -> None:
    # Recipes are `.sh` files that Python runs; worker processes must not trip over the name.
    script = tmp_path / "build.sh"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from data_pipeline.tokens import store_building\n"
        "from data_pipeline.executors.local import Processes\n"
        "store_building.build_store(Path(sys.argv[1]), {'a': Path(sys.argv[2])},\n"
        "    Path(sys.argv[3]), holdout_share=0.1, executor=Processes(2), shard_bytes=1)\n"
    )
    texts = [{"id": f"{i << 24:032x}", "text": "a b"} for i in range(200)]
    documents = write_documents(tmp_path / "a", texts, num_files=2)
    root = Path(__file__).parents[3]
    command = [sys.executable, str(script), str(tmp_path / "s"), str(documents), str(trained)]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(root)}, timeout=120)
    assert TokenStore.open(tmp_path / "s").stream("a", "train").num_documents == 174
