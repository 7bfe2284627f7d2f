"""Steps of the data that are passed over: which rows the other steps then take."""

from __future__ import annotations

import pytest

from llama_ds.batch import BatchPlan
from llama_ds.batch_schedule import BatchSchedule
from llama_ds.skipped_data import SkippedData


def test_ranges_are_merged_and_ordered() -> None:
    assert SkippedData.parse(["10-12", "3", "4-5", "11-20"]).ranges == ((3, 5), (10, 20))
    assert str(SkippedData.parse(["10-12", "3"])) == "3-3 10-12"
    assert str(SkippedData()) == "none"


@pytest.mark.parametrize("text", ["0-3", "5-4", "a", "3-", "-3", "1-2-3", "", "1 2", "٣"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"data.skip_steps \(.*\) must be steps A-B"):
        SkippedData.parse([text])


@pytest.mark.parametrize("texts", [[], ["1"], ["1-3", "5"], ["4-6", "7", "10-11"], ["30"]])
def test_the_steps_take_the_others_in_order(texts: list[str]) -> None:
    skipped = SkippedData.parse(texts)
    dropped = {step - 1 for a, b in skipped.ranges for step in range(a, b + 1)}
    others = [step for step in range(60) if step not in dropped]
    assert [skipped.data_step(step) for step in range(40)] == others[:40]


def plan(*texts: str, start_step: int = 0, rows: int = 0, tokens: int = 0) -> BatchPlan:
    fresh = BatchPlan(
        dp_size=2,
        micro_batch_size=3,
        sequence_length=10,
        num_steps=20,
        batches=BatchSchedule.of(60, {}),
        skipped=SkippedData.parse(texts),
    )
    return fresh.resumed(start_step, rows, tokens, 10) if start_step else fresh


def test_rows_and_tokens_of_the_steps() -> None:
    skipping = plan("3-4")
    assert [skipping.first_row(step) for step in range(4)] == [0, 6, 24, 30]
    assert [skipping.num_rows(step) for step in range(4)] == [0, 6, 12, 30]
    assert [skipping.num_tokens(step) for step in range(4)] == [0, 60, 120, 180]
    assert skipping.row_range(range(2, 4)) == (6, 29)


@pytest.mark.parametrize("texts", [["3-4"], ["1", "5-7"], ["2", "6", "9-12"]])
@pytest.mark.parametrize("at", range(1, 9))
def test_a_resumed_plan_goes_on_where_it_was(texts: list[str], at: int) -> None:
    """Also where the range begins just behind the checkpoint, and where it is given only then."""
    straight = plan(*texts)
    rows, tokens = straight.num_rows(at), straight.num_tokens(at)
    resumed = plan(*texts, start_step=at, rows=rows, tokens=tokens)
    for step in range(at, 15):
        assert resumed.first_row(step) == straight.first_row(step)
        assert resumed.num_rows(step) == straight.num_rows(step)
        assert resumed.num_tokens(step) == straight.num_tokens(step)
    assert resumed.num_rows(0) == 0  # the batch has had its size all along
