"""The order of training rows: the keyed permutation, and the mixture of sources."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_ds.data import Mixture, Place, permute

# --- permutation ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [*range(1, 70), 255, 256, 257, 1000, 4096, 4097])
def test_permute_is_a_bijection(size: int) -> None:
    for key in (0, 2**64 - 1):
        assert sorted(permute(i, size, key) for i in range(size)) == list(range(size))


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 2**62), st.integers(0, 2**64 - 1), st.data())
def test_permute_stays_inside_and_is_one_to_one(size: int, key: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, size - 1))
    second = data.draw(st.integers(0, size - 1))
    images = permute(first, size, key), permute(second, size, key)
    assert all(0 <= image < size for image in images)
    assert (images[0] == images[1]) == (first == second)


def test_permute_differs_by_key() -> None:
    orders = {tuple(permute(i, 50, key) for i in range(50)) for key in range(200)}
    assert len(orders) == 200


def test_permute_looks_uniform() -> None:
    # Over many keys each index must land in every cell equally often: chi-square with 49 degrees
    # of freedom for each of 50 indices; 99.999% of truly random draws lie below 104.
    size, keys = 50, 600
    orders = np.array([[permute(i, size, key) for i in range(size)] for key in range(keys)])
    counts = np.stack([np.bincount(cells, minlength=size) for cells in orders.T])
    expected = keys / size
    assert ((counts - expected) ** 2 / expected).sum(axis=1).max() < 104
    # Neighbours must not stay neighbours. A random order keeps 1.96 of its 49 pairs on average
    # (49 * 2 / 50, variance about 2), so 600 keep 1,176 with a standard deviation of about 35.
    kept = int((np.abs(np.diff(orders, axis=1)) == 1).sum())
    assert abs(kept - 1_176) < 5 * 35


# --- mixture ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shares", "block_rows", "quotas"),
    [
        ({"a": 0.5, "b": 0.3, "c": 0.2}, 10, [5, 3, 2]),
        ({"a": 67, "b": 30, "c": 3}, 1000, [670, 300, 30]),
        ({"a": 1, "b": 1, "c": 1}, 10, [4, 3, 3]),
        ({"a": 0.7, "b": 0.1, "c": 0.2}, 10, [7, 1, 2]),  # 0.7 * 10 is a hair below 7 in binary
        ({"a": 0.92, "b": 0.04, "c": 0.04}, 20, [18, 1, 1]),
        ({"b": 1.0}, 7, [7]),
    ],
)
def test_every_block_holds_the_quotas(
    shares: dict[str, float], block_rows: int, quotas: list[int]
) -> None:
    mixture = Mixture({"a": 100, "b": 50, "c": 7}, shares, block_rows, seed=3)
    assert list(mixture.quotas.values()) == quotas
    orders = set()
    for block in range(30):
        rows = range(block * block_rows, (block + 1) * block_rows)
        order = tuple(mixture.locate(row).source for row in rows)
        assert [Counter(order)[source] for source in shares] == quotas
        orders.add(order)
    assert len(orders) > 1 or len(shares) == 1


def test_paper_shares_are_exact() -> None:
    shares = {
        "common_crawl": 0.67,
        "c4": 0.15,
        "github": 0.045,
        "wikipedia": 0.045,
        "books": 0.045,
        "arxiv": 0.025,
        "stack_exchange": 0.02,
    }
    mixture = Mixture(dict.fromkeys(shares, 10**9), shares, 1_000, seed=0)
    assert list(mixture.quotas.values()) == [670, 150, 45, 45, 45, 25, 20]


def test_each_epoch_takes_every_window_once_in_a_new_order() -> None:
    rows_per_epoch = {"a": 37, "b": 5}
    mixture = Mixture(rows_per_epoch, {"a": 0.6, "b": 0.4}, block_rows=10, seed=1)
    places = [mixture.locate(row) for row in range(1_000)]
    for source, size in rows_per_epoch.items():
        own = [place for place in places if place.source == source]
        by_epoch = [
            [place.window for place in own if place.epoch == epoch] for epoch in range(len(own))
        ]
        whole = [windows for windows in by_epoch if len(windows) == size]
        assert len(whole) == len(own) // size
        assert all(sorted(windows) == list(range(size)) for windows in whole)
        assert len({tuple(windows) for windows in whole}) > len(whole) // 2
        taken = max(place.epoch for place in own)
        assert {place.epoch for place in own} == set(range(taken + 1))


def test_seed_changes_the_order() -> None:
    first, second = (Mixture({"a": 50, "b": 50}, {}, 10, seed) for seed in (0, 1))
    rows = range(100)
    assert [first.locate(row) for row in rows] != [second.locate(row) for row in rows]


def test_empty_shares_go_by_size() -> None:
    mixture = Mixture({"a": 60, "none": 0, "b": 40}, {}, block_rows=10, seed=0)
    assert mixture.quotas == {"a": 6, "b": 4}


def test_epochs_counts_what_locate_gives() -> None:
    mixture = Mixture({"a": 37, "b": 5}, {"a": 0.6, "b": 0.4}, block_rows=10, seed=1)
    for num_rows in (0, 1, 9, 10, 47, 100):
        seen = Counter(mixture.locate(row).source for row in range(num_rows))
        assert mixture.epochs(num_rows) == {"a": seen["a"] / 37, "b": seen["b"] / 5}


def test_a_share_too_small_for_the_block() -> None:
    with pytest.raises(ValueError, match=r"block_rows \(10\) .* source b with share 0.01.* 100 "):
        Mixture({"a": 10, "b": 10}, {"a": 0.99, "b": 0.01}, block_rows=10, seed=0)


def test_rows_far_out_are_found_as_fast() -> None:
    mixture = Mixture({"a": 5 * 10**8, "b": 10**8}, {"a": 0.9, "b": 0.1}, 1_000, seed=0)
    place = mixture.locate(10**15)
    assert isinstance(place, Place)
    assert place.epoch > 10**5
