"""The quickstart's sizes are compared on equal CPU time, in a small rehearsal."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from benchmarks.model.quickstart_sizes import main
from tests.support.tiny_run import VOCAB_SIZE, make_store


@pytest.mark.nightly
@pytest.mark.slow
def test_candidates_train_for_the_same_time_and_learn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_store(tmp_path / f"v{VOCAB_SIZE}")
    candidates = [f"{VOCAB_SIZE},32,1,4,32,1e-2", f"{VOCAB_SIZE},64,3,16,32,1e-2"]
    options = [word for one in candidates for word in ("--candidate", one)]
    where = ["--work", str(tmp_path), "--out", str(tmp_path / "results")]
    main([*where, *options, "--seconds", "1", "--rounds", "3"])
    (result,) = (tmp_path / "results").glob("quickstart_cpu_*.json")
    rows = json.loads(result.read_text())
    assert [row[0].split(", ")[1] for row in rows] == ["32 x 1", "64 x 3"]
    small, large = (float(row[2].split()[0]) * int(row[3].replace(",", "")) for row in rows)
    # Whole steps of the same second; the time of a step is rounded to a millisecond.
    assert small == pytest.approx(1000, rel=0.5)
    assert large == pytest.approx(1000, rel=0.5)
    for row in rows:
        before, after = float(row[5]), float(row[6])
        # Random weights spread a token's probability evenly over the pieces, of a byte or more.
        assert after < before < math.log2(VOCAB_SIZE)
    assert capsys.readouterr().out.count("```") == 4
