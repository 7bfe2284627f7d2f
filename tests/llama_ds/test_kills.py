"""Some kills of the campaign (`tests/tools/kill_campaign`): nothing is lost, nothing is mixed.

Kills of builds are in `tests/data_pipeline/build/test_interruption.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.nightly import at_night
from tests.support.tiny_run import make_store
from tests.tools.kill_campaign.jobs import adopting_orphans
from tests.tools.kill_campaign.record import Record, tables
from tests.tools.kill_campaign.training import Campaign, run_scenario

pytestmark = pytest.mark.dist


def until(num_kills: int, scenario: Callable[[int], Record], first_seed: int) -> list[Record]:
    """Scenarios one after the other, until so many processes were killed."""
    records: list[Record] = []
    for seed in itertools.count(first_seed):
        records.append(scenario(seed))
        if sum(len(record.kills) for record in records) >= num_kills:
            return records
    raise AssertionError("unreachable")


@pytest.mark.parametrize(("num_kills", "first_seed"), [(12, 1), at_night(20, 1_000)])
def test_killed_jobs_end_as_if_nothing_had_been(
    tmp_path: Path, num_kills: int, first_seed: int
) -> None:
    with adopting_orphans():
        campaign = Campaign(make_store(tmp_path / "data"), tmp_path, tmp_path / "straight")
        records = until(num_kills, lambda seed: run_scenario(campaign, seed), first_seed)
    assert not any(record.wrong for record in records), tables(records)
    assert any(record.num_resumes for record in records)
