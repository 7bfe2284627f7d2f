"""Kills training jobs and dataset builds at random, resumes them, and compares how they end.

    python -m tests.tools.kill_campaign --kills 1000 --out kills.jsonl [--seed N] [--builds]
    python -m tests.tools.kill_campaign --repeat SEED [--builds]
    python -m tests.tools.kill_campaign --report kills.jsonl [MORE.jsonl ...]

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

from tests.tools.kill_campaign.record import Record, read_records, tables


def scenarios(seeds: Iterator[int], *, builds: bool) -> Iterator[Record]:
    """Scenario after scenario, in a temporary folder that is kept where something was wrong."""
    from tests.support.tiny_run import make_store
    from tests.tools.kill_campaign.jobs import adopting_orphans
    from tests.tools.kill_campaign.training import Campaign, run_scenario

    folder = Path(tempfile.mkdtemp(prefix="kill-campaign-"))
    with adopting_orphans():
        campaign = Campaign(make_store(folder / "data"), folder)
        for seed in seeds:
            yield run_scenario(campaign, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description="kill, resume, compare")
    parser.add_argument("--kills", type=int, default=100, help="end after so many")
    parser.add_argument("--seed", type=int, help="of the first scenario; by default a new one")
    parser.add_argument("--builds", action="store_true", help="dataset builds, and no training")
    parser.add_argument("--out", type=Path, help="append a line for each scenario to this file")
    parser.add_argument("--repeat", type=int, metavar="SEED", help="only this scenario")
    parser.add_argument("--report", type=Path, nargs="+", help="print tables of these files")
    options = parser.parse_args()
    if options.report is not None:
        records = read_records(options.report)
        print(tables(records), end="")
        sys.exit(any(record.wrong for record in records))
    seed = random.randrange(1 << 32) if options.seed is None else options.seed
    repeats = options.repeat is not None
    seeds = iter([options.repeat]) if repeats else count(seed)
    records, num_kills = [], 0
    for record in scenarios(seeds, builds=options.builds):
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
