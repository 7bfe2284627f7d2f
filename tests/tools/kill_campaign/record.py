"""What a campaign has counted: a line of JSON for each scenario, and tables of all of them."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.measuring import results


class Wrong(Exception):
    """What must not be after a kill."""


@dataclass(frozen=True)
class Kill:
    """Processes that were ended by SIGKILL."""

    victims: str
    moment: str
    seconds_to_end: float
    """From the end of the launcher, or main process, to that of the last process below it."""


@dataclass
class Record:
    """A scenario and what became of it."""

    campaign: str
    seed: int
    what: str
    kills: list[Kill] = field(default_factory=list)
    num_resumes: int = 0
    """Jobs that went on from a checkpoint, or builds from parts of an earlier one."""
    wrong: str | None = None

    def line(self) -> str:
        return json.dumps(dataclasses.asdict(self)) + "\n"


def read_records(paths: Iterable[Path]) -> list[Record]:
    """The records in files of lines; ValueError for one that is not."""
    found = []
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines():
            tree = json.loads(line)
            found.append(Record(**{**tree, "kills": [Kill(**kill) for kill in tree["kills"]]}))
    return found


def tables(records: Sequence[Record]) -> str:
    """Markdown: scenarios and kills by what they are, and everything that was wrong."""
    blocks = [_totals(records)]
    for campaign in sorted({record.campaign for record in records}, reverse=True):
        own = [record for record in records if record.campaign == campaign]
        kills = Counter((kill.victims, kill.moment) for record in own for kill in record.kills)
        blocks.append(f"## {campaign.capitalize()}: kills\n\n{_cross_table(kills)}")
        rows = [
            (what, len(same), sum(len(one.kills) for one in same), sum(map(_is_wrong, same)))
            for what in sorted({record.what for record in own})
            if (same := [record for record in own if record.what == what])
        ]
        heading = ("scenario", "runs", "kills", "wrong")
        blocks.append(f"## {campaign.capitalize()}: scenarios\n\n{_table(heading, rows)}")
    wrong = [f"- {one.campaign} {one.seed}: {one.wrong}" for one in records if one.wrong]
    if wrong:
        blocks.append("## Wrong\n\n" + "\n".join(wrong))
    return "\n\n".join(blocks) + "\n"


def write_result(records: Sequence[Record], folder: Path) -> str:
    """Write the tables, and a line for each scenario; returns the Markdown."""
    stem = results.result_stem(folder, "kills", torch.device("cpu"))
    parts = [
        "# Kills: training jobs and dataset builds",
        f"SIGKILL on {os.cpu_count()} cores that others use too, gloo, one thread a process; "
        f"{results.versions('torch', 'deepspeed', 'ray')}, commit {results.commit()}, "
        f"{datetime.date.today().isoformat()}. Command: `python -m tests.tools.kill_campaign`, "
        "with `--of builds-local` and `--of builds-ray` for builds; `--repeat SEED` runs a "
        "scenario again.",
        _WHAT,
        tables(records).rstrip(),
    ]
    rows = [
        {
            **{name: getattr(one, name) for name in ("campaign", "seed", "what", "num_resumes")},
            "kills": Counter(f"{kill.victims}, {kill.moment}" for kill in one.kills),
            "wrong": one.wrong,
        }
        for one in records
    ]
    return results.write(stem, parts, rows)


_WHAT = """\
A scenario is a run or a build that is killed and started again until its end. Wrong is whatever
differs then: in one layout a loss, gradient norm, weight or moment by a bit from those of the run
that nobody killed; in changing layouts by more than the reshard matrix allows from plain PyTorch's;
of a build a byte. Wrong is also, after any kill, a checkpoint that is there and not whole, a job
that does not begin at the newest one, a log with a record twice or cut, a refused start, a process
or a temporary file that is left. At a change: before a change to the disk, the Nth of a process."""


def _totals(records: Sequence[Record]) -> str:
    rows = []
    for campaign in sorted({record.campaign for record in records}, reverse=True):
        own = [record for record in records if record.campaign == campaign]
        kills = [kill for record in own for kill in record.kills]
        longest = max((kill.seconds_to_end for kill in kills), default=0.0)
        resumes = sum(record.num_resumes for record in own)
        wrong = sum(map(_is_wrong, own))
        rows.append((campaign, len(own), len(kills), resumes, f"{longest:.1f} s", wrong))
    heading = ("", "scenarios", "kills", "resumes", "longest until the last process ended", "wrong")
    return _table(heading, rows)


def _is_wrong(record: Record) -> bool:
    return record.wrong is not None


def _cross_table(kills: Counter[tuple[str, str]]) -> str:
    moments = sorted({moment for _, moment in kills})
    rows = [
        (victims, *(kills[victims, moment] for moment in moments))
        for victims in sorted({victims for victims, _ in kills})
    ]
    return _table(("killed", *moments), rows)


def _table(heading: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)
