"""Kills training jobs and dataset builds at random, resumes them, and compares how they end.

    python -m tests.tools.kill_campaign --kills 1000 --out kills.jsonl [--seed N] [--of builds-ray]
    python -m tests.tools.kill_campaign --repeat SEED [--of builds-ray]
    python -m tests.tools.kill_campaign --report kills.jsonl [MORE.jsonl ...] [--write FOLDER]

A line of `--out` is a scenario: what was killed when, and what was wrong. Several campaigns may run
at once, with seeds far apart. The exit code is 1 where anything was wrong.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from tests.support.tiny_run import make_store
from tests.tools.kill_campaign.builds import BuildCampaign, run_build_scenario
from tests.tools.kill_campaign.jobs import adopting_orphans
from tests.tools.kill_campaign.record import Record, read_records, tables, write_result
from tests.tools.kill_campaign.training import Campaign, run_scenario


def scenarios(seeds: Iterator[int], what: str, straight_runs: Path | None) -> Iterator[Record]:
    """Scenario after scenario, in a temporary folder that is kept where something was wrong."""
    folder = Path(tempfile.mkdtemp(prefix="kill-campaign-"))
    with adopting_orphans():
        if what == "training":
            campaign = Campaign(
                make_store(folder / "data"), folder, straight_runs or folder / "straight"
            )
            yield from (run_scenario(campaign, seed) for seed in seeds)
        else:
            builds = BuildCampaign(folder, what.removeprefix("builds-"))
            yield from (run_build_scenario(builds, seed) for seed in seeds)


def main() -> None:
    parser = argparse.ArgumentParser(description="kill, resume, compare")
    parser.add_argument("--kills", type=int, default=100, help="end after so many")
    parser.add_argument("--seed", type=int, help="of the first scenario; by default a new one")
    parser.add_argument(
        "--of", choices=("training", "builds-local", "builds-ray"), default="training"
    )
    parser.add_argument("--out", type=Path, help="append a line for each scenario to this file")
    parser.add_argument("--repeat", type=int, metavar="SEED", help="only this scenario")
    parser.add_argument(
        "--straight-runs", type=Path, help="folder of runs without kills, for several campaigns"
    )
    parser.add_argument("--report", type=Path, nargs="+", help="print tables of these files")
    parser.add_argument("--write", type=Path, help="with --report: a result's folder")
    options = parser.parse_args()
    if options.report is not None:
        records = read_records(options.report)
        write = options.write
        print(tables(records) if write is None else write_result(records, write), end="")
        sys.exit(any(record.wrong for record in records))
    seed = random.randrange(1 << 32) if options.seed is None else options.seed
    repeats = options.repeat is not None
    seeds = iter([options.repeat]) if repeats else count(seed)
    records, num_kills = [], 0
    for record in scenarios(seeds, options.of, options.straight_runs):
        records.append(record)
        num_kills += len(record.kills)
        if options.out is not None:
            with options.out.open("a", encoding="utf-8") as file:
                file.write(record.line())
        state = "ok" if record.wrong is None else f"WRONG: {record.wrong}"
        print(f"{num_kills:>6} kills, seed {record.seed}: {record.what}: {state}", flush=True)
        if num_kills >= options.kills:
            break
    print(tables(records), end="")
    sys.exit(any(record.wrong for record in records))


if __name__ == "__main__":
    main()
