"""Twenty kills of the campaign (`tests/tools/kill_campaign`): nothing is lost, nothing is mixed."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.tiny_run import make_store
from tests.tools.kill_campaign.builds import BuildCampaign, run_build_scenario
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


def test_killed_jobs_end_as_if_nothing_had_been(tmp_path: Path) -> None:
    with adopting_orphans():
        campaign = Campaign(make_store(tmp_path / "data"), tmp_path, tmp_path / "straight")
        records = until(14, lambda seed: run_scenario(campaign, seed), first_seed=1)
    assert not any(record.wrong for record in records), tables(records)
    assert any(record.num_resumes for record in records)


def test_killed_builds_end_as_if_nothing_had_been(tmp_path: Path) -> None:
    with adopting_orphans():
        campaign = BuildCampaign(tmp_path)
        records = until(6, lambda seed: run_build_scenario(campaign, seed, "local"), first_seed=1)
    assert not any(record.wrong for record in records), tables(records)
