"""Micro-batches with their labels and positions, held-out rows, prefetching."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, List, Value

from data_pipeline.tokens.store import (
    FORMAT_VERSION,
    SPLITS,
    ShardFile,
    SplitManifest,
    StoreManifest,
    TokenStore,
    describe_file,
)
from llama_ds.batch import BatchPlan
from llama_ds.batch_schedule import BatchSchedule
from llama_ds.config import DataConfig
from llama_ds.data import (
    Batch,
    HeldOutData,
    TrainingData,
    check_vocab,
    prefetch,
)

Documents = dict[str, dict[str, list[list[int]]]]


def write_store(path: Path, documents: Documents) -> TokenStore:
    """A store of hand-made documents: source -> split -> lists of token ids."""
    features = Features({"id": Value("string"), "input_ids": List(Value("uint16"))})
    sources: dict[str, Any] = {}
    for source, splits in documents.items():
        sources[source] = {}
        for split in SPLITS:
            rows, files = splits.get(split, []), list[ShardFile]()
            if rows:
                columns = {"id": [f"{i:032x}" for i in range(len(rows))], "input_ids": rows}
                dataset = Dataset.from_dict(columns, features=features)
                dataset.save_to_disk(path / source / split)
                files = [
                    describe_file(path, file)
                    for file in sorted((path / source / split).glob("*.arrow"))
                ]
            sources[source][split] = SplitManifest.of(
                tuple(files), num_text_bytes=0, num_byte_tokens=0
            )
    manifest = StoreManifest(
        version=FORMAT_VERSION,
        tokenizer_kind="sentencepiece",
        tokenizer_sha256="a" * 64,
        vocab_size=50_000,
        bos_token_id=1,
        eos_token_id=2,
        dtype="uint16",
        holdout_share=0.0,
        fingerprint="f",
        sources=sources,
    )
    path.mkdir(exist_ok=True)
    (path / "manifest.json").write_text(manifest.to_json())
    return TokenStore.open(path)


def numbered(first: int, count: int, length: int = 10) -> list[list[int]]:
    """Documents whose tokens count up, so that a token says where it stands."""
    flat = range(first, first + count * length)
    return [list(flat[i : i + length]) for i in range(0, len(flat), length)]


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    """Sources a (1001 tokens from 1000), b (501 from 5000), c (101 from 9000)."""
    return write_store(
        tmp_path / "store",
        {
            "a": {"train": [*numbered(1000, 100), [2000]], "validation": numbered(20_000, 30)},
            "b": {"train": [*numbered(5000, 50), [5500]], "validation": numbered(30_000, 2)},
            "c": {"train": [*numbered(9000, 10), [9100]]},
        },
    )


def config(store: TokenStore, **options: Any) -> DataConfig:
    return DataConfig(store=store.path, **{"block_rows": 20, **options})


# --- training rows ----------------------------------------------------------------------------


def test_rows_are_windows_with_shifted_labels(store: TokenStore) -> None:
    data = TrainingData(store, config(store), sequence_length=20, seed=0)
    batch = data.rows(range(200))
    assert batch.input_ids_BS.shape == batch.labels_BS.shape == (200, 20)
    assert batch.input_ids_BS.dtype == batch.labels_BS.dtype == torch.int64
    assert batch.position_ids_BS is None
    assert batch.num_targets == 4_000
    # Tokens count up within a source, so a window counts up and its labels are one ahead.
    steps = torch.arange(20)
    first = batch.input_ids_BS[:, :1]
    assert torch.equal(batch.input_ids_BS, first + steps)
    assert torch.equal(batch.labels_BS, batch.input_ids_BS + 1)
    for low, high in ((1000, 2000), (5000, 5500), (9000, 9100)):
        mine = (first >= low) & (first < high)
        assert set(((first[mine] - low) % 20).tolist()) == {0}


def test_an_epoch_predicts_every_token_once(store: TokenStore) -> None:
    data = TrainingData(store, config(store, shares={"b": 1.0}), sequence_length=20, seed=0)
    labels = data.rows(range(100)).labels_BS.flatten()
    # 100 rows are five whole blocks and four epochs.
    assert data.epochs(100) == {"b": 4.0}
    assert Counter(labels.tolist()) == dict.fromkeys(range(5001, 5501), 4)


def test_epochs_say_how_often_each_source_is_seen(store: TokenStore) -> None:
    # 50 rows of a, twice, and 25 of b, four times: half a block each.
    data = TrainingData(store, config(store, epochs={"b": 4.0, "a": 2.0}), 20, seed=0)
    assert data.mixture.quotas == {"b": 10, "a": 10}
    assert data.epochs(200) == {"b": 4.0, "a": 2.0}
    # What counts is how they compare: half of each says the same.
    halves = TrainingData(store, config(store, epochs={"b": 2.0, "a": 1.0}), 20, seed=0)
    assert halves.mixture.quotas == data.mixture.quotas


def test_epochs_name_sources_of_the_store(store: TokenStore) -> None:
    with pytest.raises(ValueError, match=r"source wiki is not in the token store .* holds a, b, c"):
        TrainingData(store, config(store, epochs={"a": 1.0, "wiki": 2.0}), 20, seed=0)
    with pytest.raises(ValueError, match=r"sequence_length \(200\) .* source c has 101 training"):
        TrainingData(store, config(store, epochs={"a": 1.0, "c": 2.0}), 200, seed=0)


def test_epochs_are_positive(store: TokenStore) -> None:
    with pytest.raises(ValueError, match=r"data.epochs: web \(-1.0\) must be positive"):
        config(store, epochs={"web": -1.0})


def plan_for(dp_size: int, micro_batch_size: int, rows_per_step: int = 16) -> BatchPlan:
    return BatchPlan(
        dp_size=dp_size,
        micro_batch_size=micro_batch_size,
        sequence_length=20,
        num_steps=10,
        batches=BatchSchedule.of(20 * rows_per_step, {}),
    )


@pytest.mark.parametrize(
    ("dp_size", "micro_batch_size"), [(1, 1), (1, 4), (2, 2), (2, 8), (4, 1), (4, 2), (4, 4)]
)
def test_a_step_has_the_same_rows_for_every_number_of_ranks(
    store: TokenStore, dp_size: int, micro_batch_size: int
) -> None:
    data = TrainingData(store, config(store), sequence_length=20, seed=0)
    plan = plan_for(dp_size, micro_batch_size)
    for step in (0, 5):
        parts = [
            data.micro_batch(step, accum_step, rank, plan).input_ids_BS
            for accum_step in range(plan.grad_accum_steps(step))
            for rank in range(dp_size)
        ]
        straight = data.rows(range(step * 16, (step + 1) * 16)).input_ids_BS
        assert torch.equal(torch.cat(parts), straight)


def test_a_run_resumed_at_any_row_goes_on_the_same(store: TokenStore) -> None:
    straight = TrainingData(store, config(store), 20, seed=4).rows(range(150))
    resumed = TrainingData(store, config(store), 20, seed=4).rows(range(87, 150))
    assert torch.equal(straight.input_ids_BS[87:], resumed.input_ids_BS)
    assert torch.equal(straight.labels_BS[87:], resumed.labels_BS)


@pytest.mark.parametrize(
    ("shares", "length", "message"),
    [
        ({}, 1_001, r"sequence_length \(1001\) .* source a has 1001 training .* takes 1002"),
        ({"a": 0.5, "c": 0.5}, 200, r"sequence_length \(200\) .* source c has 101 training"),
        ({"a": 0.5, "wiki": 0.5}, 20, "source wiki is not in the token store .* holds a, b, c"),
    ],
)
def test_stores_that_do_not_fit(
    store: TokenStore, shares: dict[str, float], length: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingData(store, config(store, shares=shares), length, seed=0)


def test_without_shares_a_source_too_short_is_left_out(store: TokenStore) -> None:
    data = TrainingData(store, config(store), sequence_length=200, seed=0)
    assert list(data.mixture.quotas) == ["a", "b"]


def test_check_vocab(store: TokenStore) -> None:
    check_vocab(store, 50_000)
    check_vocab(store, 50_048)
    with pytest.raises(ValueError, match=r"model.vocab_size \(32000\) .* \(50000\)"):
        check_vocab(store, 32_000)


# --- document masking -------------------------------------------------------------------------


def test_document_masking(tmp_path: Path) -> None:
    documents = [[1, 10, 11, 2], [1, 20, 2], [1, 30, 31, 32, 33, 2], [1, 2]]
    store = write_store(tmp_path / "s", {"a": {"train": documents}})
    options = config(store, document_masking=True, block_rows=1)
    data = TrainingData(store, options, sequence_length=7, seed=0)
    rows = data.rows(range(2))
    order = rows.input_ids_BS[:, 1].argsort()  # window 0 has token 10 there, window 1 token 30
    assert rows.input_ids_BS[order].tolist() == [
        [1, 10, 11, 2, 1, 20, 2],
        [1, 30, 31, 32, 33, 2, 1],
    ]
    assert rows.labels_BS[order].tolist() == [
        [10, 11, 2, -100, 20, 2, -100],
        [30, 31, 32, 33, 2, -100, 2],
    ]
    assert rows.position_ids_BS is not None
    assert rows.position_ids_BS[order].tolist() == [
        [0, 1, 2, 3, 0, 1, 2],
        [0, 1, 2, 3, 4, 5, 0],
    ]
    assert rows.num_targets == 11


def test_document_masking_of_a_window_that_begins_inside_a_document(tmp_path: Path) -> None:
    store = write_store(tmp_path / "s", {"a": {"train": [[1, 5, 6, 7, 2], [1, 8, 9, 2]]}})
    options = config(store, document_masking=True, block_rows=1)
    rows = TrainingData(store, options, sequence_length=4, seed=0).rows(range(2))
    row = rows.input_ids_BS[:, 0].tolist().index(2)
    assert rows.input_ids_BS[row].tolist() == [2, 1, 8, 9]
    assert rows.labels_BS[row].tolist() == [-100, 8, 9, 2]
    assert rows.position_ids_BS is not None
    assert rows.position_ids_BS[row].tolist() == [0, 0, 1, 2]


def test_without_document_masking_the_next_document_is_predicted(tmp_path: Path) -> None:
    store = write_store(tmp_path / "s", {"a": {"train": [[1, 5, 2], [1, 6, 2]]}})
    batch = TrainingData(store, config(store), sequence_length=5, seed=0).rows(range(1))
    assert batch.labels_BS.tolist() == [[5, 2, 1, 6, 2]]
    assert batch.position_ids_BS is None


# --- held-out rows ----------------------------------------------------------------------------


def targets(batches: Iterator[Batch] | list[Batch]) -> list[int]:
    labels = torch.cat([batch.labels_BS.flatten() for batch in batches])
    return labels[labels != -100].tolist()


def held_out(data: HeldOutData, rank: int, dp_size: int, micro_batch_size: int) -> list[Batch]:
    return [batch for _, batch in data.micro_batches(rank, dp_size, micro_batch_size)]


def test_all_held_out_tokens_are_predicted_once(store: TokenStore) -> None:
    data = HeldOutData(store, sequence_length=16, num_rows=1_000)
    assert data.num_rows == math.ceil(299 / 16) + math.ceil(19 / 16)
    found = targets(held_out(data, 0, 1, 4))
    assert sorted(found) == [*range(20_001, 20_300), *range(30_001, 30_020)]


def test_a_held_out_batch_is_of_one_source(store: TokenStore) -> None:
    data = HeldOutData(store, sequence_length=16, num_rows=1_000)
    assert data.rows_of == {"a": 19, "b": 2}
    of_source = {"a": range(20_000, 20_300), "b": range(30_000, 30_020)}
    seen = set()
    for source, batch in data.micro_batches(0, 1, 4):
        assert set(targets([batch])) <= set(of_source[source])
        seen.add(source)
    assert seen == set(of_source)


@pytest.mark.parametrize("num_rows", [1, 2, 5, 12])
def test_held_out_rows_are_spread(store: TokenStore, num_rows: int) -> None:
    data = HeldOutData(store, sequence_length=16, num_rows=num_rows)
    batches = held_out(data, 0, 1, 1)
    first = [int(batch.input_ids_BS[0, 0]) for batch in batches]
    assert first == [int(batch.input_ids_BS[0, 0]) for batch in held_out(data, 0, 1, 1)]
    assert len(set(first)) == len(first)
    small = [token for token in first if token >= 30_000]
    assert len(small) >= 1  # each source has a row, even where that is one row more
    large = np.diff([token for token in first if token < 30_000])
    assert len(large) == 0 or large.max() - large.min() <= 16


@pytest.mark.parametrize("dp_size", [1, 2, 3, 8, 40])
@pytest.mark.parametrize("micro_batch_size", [1, 3])
def test_held_out_rows_divide_over_any_number_of_ranks(
    store: TokenStore, dp_size: int, micro_batch_size: int
) -> None:
    data = HeldOutData(store, sequence_length=16, num_rows=20)
    ranks = [held_out(data, rank, dp_size, micro_batch_size) for rank in range(dp_size)]
    assert len({len(batches) for batches in ranks}) == 1
    shapes = {tuple(batch.input_ids_BS.shape) for batches in ranks for batch in batches}
    assert shapes == {(micro_batch_size, 16)}
    found = [target for batches in ranks for target in targets(batches)]
    assert sorted(found) == sorted(targets(held_out(data, 0, 1, 1)))
    for batch in (batch for batches in ranks for batch in batches):
        assert batch.num_targets == int((batch.labels_BS != -100).sum())


def test_held_out_documents_can_be_masked(store: TokenStore) -> None:
    data = HeldOutData(store, 16, num_rows=100, document_masking=True)
    batches = held_out(data, 0, 1, 1)
    assert all(batch.position_ids_BS is not None for batch in batches)
    assert not any(target % 10 == 0 for target in targets(batches))


def test_no_held_out_rows(store: TokenStore, tmp_path: Path) -> None:
    assert HeldOutData(store, 16, num_rows=0).num_rows == 0
    bare = write_store(tmp_path / "bare", {"a": {"train": numbered(0, 3)}})
    data = HeldOutData(bare, 16, num_rows=10)
    assert data.num_rows == 0
    assert list(data.micro_batches(0, 2, 1)) == []


# --- prefetch ---------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 3])
def test_prefetch_gives_the_same_items_and_runs_ahead(depth: int) -> None:
    made: list[int] = []
    ahead = threading.Event()

    def items() -> Iterator[int]:
        for number in range(10):
            made.append(number)
            if number == depth:
                ahead.set()
            yield number

    iterator = prefetch(items(), depth)
    assert next(iterator) == 0
    assert ahead.wait(timeout=10)  # item `depth` was made while item 0 is still in use
    assert list(iterator) == list(range(1, 10)) == made[1:]


def test_prefetch_passes_exceptions_on_after_the_items_before() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("disk gone")

    iterator = prefetch(items(), depth=2)
    assert next(iterator) == 1
    with pytest.raises(OSError, match="disk gone"):
        next(iterator)


def test_prefetch_ends_its_thread_when_closed() -> None:
    iterator = prefetch(iter(range(10**9)), depth=2)
    next(iterator)
    threads = [thread for thread in threading.enumerate() if "prefetch" in thread.name]
    assert len(threads) == 1
    iterator.close()  # type: ignore[attr-defined]
    assert not threads[0].is_alive()


def test_batches_are_frozen(store: TokenStore) -> None:
    batch = TrainingData(store, config(store), 20, seed=0).rows(range(1))
    with pytest.raises(dataclasses.FrozenInstanceError):
        batch.num_targets = 0  # type: ignore[misc]
