"""Logs of JSON lines: what a resumed run keeps of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from llama_ds.json_lines import keep_records_up_to, to_line, whole_records

LINES = [to_line({"kind": "eval", "step": step}) for step in range(4)]


@pytest.mark.parametrize(
    ("step", "kept"),
    [
        (2, [0, 1, 2]),
        (9, [0, 1, 2, 3]),
        # A run that begins again evaluates again before its first step.
        (0, []),
    ],
)
def test_records_after_the_checkpoint_are_dropped(
    tmp_path: Path, step: int, kept: list[int]
) -> None:
    log = tmp_path / "metrics.jsonl"
    log.write_text("".join(LINES) + LINES[0][:9])  # cut by a kill
    keep_records_up_to(log, step)
    assert log.read_text() == "".join(LINES[number] for number in kept)
    assert [record["step"] for _, record in whole_records(log)] == kept
