"""Entries by key, against a dictionary."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np

from data_pipeline.dedup.buckets import RunWriter, num_entries, shared_keys


def test_members_of_shared_keys_in_any_runs_and_ranges(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    # Many keys twice or more; the first and the last key there can be; members of all 32 bits.
    ends = np.array([0, (1 << 64) - 1], np.uint64)
    keys = rng.choice(np.concatenate([rng.integers(0, 1 << 64, 300, np.uint64), ends]), 500)
    members = rng.permutation((1 << 32) - 1 - np.arange(500)).astype(np.uint32)
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder, part in zip(folders, (slice(0, 260), slice(260, 500)), strict=True):
        folder.mkdir()
        with RunWriter(folder, max_entries=100) as runs:
            for start in range(part.start, part.stop, 30):
                some = slice(start, min(start + 30, part.stop))
                runs.add(keys[some], members[some])
    assert len(list(folders[0].glob("keys-*"))) == 3  # 90, 90, 80 entries
    assert num_entries(folders) == 500
    expected = defaultdict(list)
    for key, member in zip(keys.tolist(), members.tolist(), strict=True):
        expected[key].append(member)
    groups = [sorted(expected[key]) for key in sorted(expected) if len(expected[key]) > 1]
    for cuts in ((), (1,), (1 << 62, 3 << 62)):
        found: list[list[int]] = []
        for low, high in pairwise((0, *cuts, 1 << 64)):
            by_number = defaultdict(list)
            for value in shared_keys(folders, low, high).tolist():
                by_number[value >> 32].append(value & 0xFFFFFFFF)
            found += by_number.values()
        assert found == groups


def test_without_entries(tmp_path: Path) -> None:
    with RunWriter(tmp_path, max_entries=10):
        pass
    assert num_entries([tmp_path]) == 0
    assert len(shared_keys([tmp_path], 0, 1 << 64)) == 0
