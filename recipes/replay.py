"""Repeats a run bit for bit from its `events.jsonl`.

torchrun [options] recipes/replay.py RUN --out NEW, or deepspeed in place of torchrun.
Without --out it prints the segments of the run, and on how many ranks each was trained. A replay
trains those for the number of ranks that it has; where another number is needed it ends, and says
with how many to start it again.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from llama_ds.run_events import FILE as EVENTS
from recipes.command_line import bad_input, end_on_interrupt
from recipes.launch import prepare_rank, quiet_libraries
from recipes.scheduler import rank_variables


def main() -> None:
    end_on_interrupt()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="run folder to repeat")
    parser.add_argument("--out", type=Path, help="run folder of the replay")
    parser.add_argument("--store", type=Path, help="the token store, where it was moved")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # deepspeed's
    options = parser.parse_args()
    try:
        os.environ |= rank_variables(os.environ)
        code = _replay(options.run, options.out, options.store)
    except (ValueError, OSError) as error:
        code = bad_input(error)
    sys.exit(code)


def _replay(run: Path, out: Path | None, store: Path | None) -> int:
    if not (run / EVENTS).is_file():
        raise ValueError(f"{run} has no {EVENTS}; name the folder of a run")
    prepare_rank()
    quiet_libraries()
    from llama_ds.checkpoint.saving import versions
    from llama_ds.replay import replay, segments
    from llama_ds.run_events import read_events

    is_first = os.environ["RANK"] == "0"
    found = segments(read_events(run))
    if is_first:
        for segment in found:
            print(segment)
            here = versions()
            for name, version in segment.versions.items():
                if here.get(name) != version:
                    print(f"  with {name} {version}, here {here.get(name)}: bits may differ")
    if out is None:
        return 0
    left = replay(run, out, int(os.environ["LOCAL_RANK"]), int(os.environ["WORLD_SIZE"]), store)
    if is_first:
        print(f"start it again for {left[0]}" if left else f"{out}: done")
    return 0


if __name__ == "__main__":
    main()
