"""The benchmark of checkpoints in its small size."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.measuring.results import write
from benchmarks.model.checkpoint import WORLD_SIZE, measure, report, size_of


@pytest.mark.dist
def test_rehearsal(gloo: Callable[..., list[Any]], tmp_path: Path) -> None:
    size = size_of(rehearse=True)
    results, other = gloo(WORLD_SIZE, measure, size, tmp_path)
    assert results == other
    assert len(results) == len(size.hidden_sizes)
    for result in results:
        # Of small models, the headers and the random state weigh more than a percent.
        assert 12 <= result.bytes_on_disk / result.num_parameters < 15
        assert 0 < result.asynchronous_stall < result.synchronous_stall
        assert min(result.write, result.load, result.deepspeed_stall) > 0
    assert results[0].num_parameters < results[1].num_parameters
    stem = tmp_path / "checkpoint_cpu"
    raw = [dataclasses.asdict(result) for result in results]
    text = write(stem, report(size, results, "unknown"), raw)
    assert stem.with_suffix(".md").read_text(encoding="utf-8") == text
    assert all(f"| {result.num_parameters:,} |" in text for result in results)
    assert [path for path in tmp_path.iterdir() if path.name in ("run", "ds")] == []
