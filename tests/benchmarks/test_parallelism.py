"""The benchmark of parallel ranks in its small size: what it counts is what the formulas say."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.measuring.results import write
from benchmarks.model.parallelism import (
    LAYOUTS,
    POLICIES,
    WORLD_SIZE,
    measure,
    plot,
    report,
    size_of,
    variants,
)

Gloo = Callable[..., list[Any]]


@pytest.mark.nightly
@pytest.mark.dist
def test_rehearsal(gloo: Gloo, tmp_path: Path) -> None:
    size = size_of(rehearse=True)
    results, *others = gloo(WORLD_SIZE, measure, size)
    assert all(other.lengths == results.lengths for other in others)
    assert len(results.layers) == len(LAYOUTS) * len(POLICIES)
    for layer in results.layers:
        assert layer.kept == layer.kept_predicted
        assert (layer.forward, layer.backward) == (
            layer.forward_predicted,
            layer.backward_predicted,
        )
    for variant in variants():
        one, two, four = (r for r in results.lengths if r.variant == variant.name)
        assert (one.sp, two.sp, four.sp) == (1, 2, 4)
        assert one.longest < two.longest < four.longest
        assert max(r.peak_bytes for r in (one, two, four)) <= size.budget_bytes
    stem = tmp_path / "parallelism_cpu"
    text = write(stem, report(size, results, stem, "unknown"), dataclasses.asdict(results))
    assert stem.with_suffix(".md").read_text(encoding="utf-8") == text
    assert all(f"| {r.variant} | {r.sp} | {r.longest:,} |" in text for r in results.lengths)
    plot(results.lengths, stem.with_suffix(".png"))
    assert stem.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
