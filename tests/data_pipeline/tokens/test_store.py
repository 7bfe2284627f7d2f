"""The token store's format: windows over documents equal slices of their concatenation."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import os
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, Features, List, Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_pipeline.tokens.store import (
    FORMAT_VERSION,
    SplitManifest,
    StoreManifest,
    TokenStore,
    TokenStream,
    describe_file,
)

EMPTY = SplitManifest.of((), num_text_bytes=0, num_byte_tokens=0)


def write_split(
    store: Path, source: str, documents: list[list[int]], num_shards: int, dtype: str = "uint16"
) -> SplitManifest:
    """Documents of token ids as one split on disk."""
    folder = store / source / "train"
    features = Features({"id": Value("string"), "input_ids": List(Value(dtype))})
    rows = {"id": [f"{i:032x}" for i in range(len(documents))], "input_ids": documents}
    Dataset.from_dict(rows, features=features).save_to_disk(folder, num_shards=num_shards)
    files = tuple(describe_file(store, path) for path in sorted(folder.glob("*.arrow")))
    return SplitManifest.of(files, num_text_bytes=0, num_byte_tokens=0)


def write_store(store: Path) -> TokenStore:
    """Two files of 40 documents with three tokens each, in source `books`."""
    split = write_split(store, "books", [[1, i, 2] for i in range(80)], num_shards=2)
    (store / "tokenizer").mkdir()
    (store / "tokenizer" / "tokenizer.model").write_bytes(b"a model")
    manifest = StoreManifest(
        version=FORMAT_VERSION,
        tokenizer_kind="sentencepiece",
        tokenizer_sha256=hashlib.sha256(b"a model").hexdigest(),
        vocab_size=100,
        bos_token_id=1,
        eos_token_id=2,
        dtype="uint16",
        holdout_share=0.0,
        fingerprint="f",
        sources={"books": {"train": split, "validation": EMPTY}},
    )
    (store / "manifest.json").write_text(manifest.to_json())
    return TokenStore.open(store)


@pytest.fixture(autouse=True)
def small_record_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three documents to a record batch, so that windows cross their borders."""
    monkeypatch.setattr("datasets.config.DEFAULT_MAX_BATCH_SIZE", 3)


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    return write_store(tmp_path / "store")


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=40),
    num_shards=st.integers(1, 4),
    dtype=st.sampled_from(["uint16", "uint32"]),
    data=st.data(),
)
def test_window_is_a_slice_of_the_concatenation(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[int],
    num_shards: int,
    dtype: str,
    data: st.DataObject,
) -> None:
    folder = tmp_path_factory.mktemp("store")
    starts = np.cumsum([0, *lengths])
    flat = np.arange(starts[-1]) % 60_000
    documents = [flat[a:b].tolist() for a, b in itertools.pairwise(starts)]
    split = write_split(folder, "s", documents, min(num_shards, len(lengths)), dtype)
    stream = TokenStream(folder, split)
    assert stream.num_tokens == len(flat)
    for _ in range(20):
        start = data.draw(st.integers(0, len(flat) - 1))
        length = data.draw(st.integers(1, len(flat) - start))
        window = stream.window(start, length)
        assert window.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(window, flat[start : start + length])
        inside = starts[:-1][(starts[:-1] >= start) & (starts[:-1] < start + length)]
        np.testing.assert_array_equal(stream.window_starts(start, length), inside - start)


def test_record_batches_are_small_in_these_tests(store: TokenStore) -> None:
    # Else the property test above would never see a border between record batches.
    stream = store.stream("books", "train")
    assert [len(chunk.tokens) for chunk in stream._shard(0).chunks] == [9] * 13 + [3]


def test_a_window_inside_a_record_batch_is_not_copied(store: TokenStore) -> None:
    window = store.stream("books", "train").window(1, 4)
    assert not window.flags.owndata
    assert not window.flags.writeable


def test_files_are_opened_at_first_touch_and_hold_no_descriptor(store: TokenStore) -> None:
    stream = store.stream("books", "train")
    assert list(stream._opened) == []
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
    stream.window(121, 2)
    assert list(stream._opened) == [1]
    if before:
        assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(("start", "length"), [(-1, 2), (0, 0), (239, 2), (240, 1)])
def test_window_outside_the_stream_is_refused(store: TokenStore, start: int, length: int) -> None:
    with pytest.raises(AssertionError, match="outside the stream of 240 tokens"):
        store.stream("books", "train").window(start, length)


def test_datasets_loads_a_split(store: TokenStore) -> None:
    from datasets import load_from_disk

    loaded = load_from_disk(store.path / "books" / "train")
    assert loaded.num_rows == 80
    assert loaded[41]["input_ids"] == [1, 41, 2]


def test_manifest_round_trip(store: TokenStore) -> None:
    assert StoreManifest.from_json(store.manifest.to_json()) == store.manifest


def test_not_a_store(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a token store"):
        TokenStore.open(tmp_path)
    (tmp_path / "manifest.json").write_text('{"version": 1, "toke')
    with pytest.raises(ValueError, match="is not a valid manifest"):
        TokenStore.open(tmp_path)


def test_another_format_version_is_refused(store: TokenStore) -> None:
    other = dataclasses.replace(store.manifest, version=FORMAT_VERSION + 1)
    (store.path / "manifest.json").write_text(other.to_json())
    with pytest.raises(ValueError, match=f"format version {FORMAT_VERSION + 1}"):
        TokenStore.open(store.path)


def test_truncated_and_missing_shards_are_refused(store: TokenStore) -> None:
    entry = store.manifest.sources["books"]["train"].files[1]
    path = store.path / entry.path
    os.truncate(path, 100)
    message = rf"truncated shard: .*{path.name} has 100 bytes, the manifest says {entry.bytes};"
    with pytest.raises(ValueError, match=message):
        TokenStore.open(store.path)
    path.unlink()
    with pytest.raises(ValueError, match=f"missing shard: .*{path.name}"):
        TokenStore.open(store.path)


def test_damage_that_keeps_the_size_is_found(store: TokenStore) -> None:
    store.verify()
    path = store.path / store.manifest.sources["books"]["train"].files[0].path
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged shard: .*checksum"):
        TokenStore.open(store.path).verify()
    path.write_bytes(bytes(len(content)))
    with pytest.raises(ValueError, match="damaged shard: "):
        TokenStore.open(store.path).stream("books", "train").window(0, 1)


def test_verification_names_every_damaged_file(store: TokenStore) -> None:
    first, second = (store.path / file.path for file in store.shards)
    first.write_bytes(bytes(first.stat().st_size))
    second.unlink()
    (store.tokenizer_dir / "tokenizer.model").write_bytes(b"another")
    for num_threads in (1, 3):
        with pytest.raises(ValueError, match="damaged tokenizer: ") as caught:
            store.verify(num_threads=num_threads)
        lines = str(caught.value).splitlines()
        assert [line.partition(":")[0] for line in lines] == [
            "damaged tokenizer",
            "damaged shard",
            "unreadable shard",
        ]
        assert str(first) in lines[1]
        assert str(second) in lines[2]


def test_unknown_source(store: TokenStore) -> None:
    with pytest.raises(ValueError, match=r"source wiki is not in the token store .* holds books"):
        store.stream("wiki", "train")
