"""Checkpoints of a run from the command line: export one, average some, verify all.

    llama-ds-checkpoint export RUN_DIR OUT_DIR [--step N] [--dtype bf16|fp32]
                               [--push-to-hub USER/NAME [--public]]
    llama-ds-checkpoint average RUN_DIR OUT_DIR (--last N | --steps A B ...) [--dtype bf16|fp32]
    llama-ds-checkpoint verify RUN_DIR

`python -m llama_ds.checkpoint` is the same. Exit codes: 0, all is well; 1, `verify` has found
damage; 2, bad input.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import get_args

from llama_ds.config import Dtype


def main(arguments: list[str] | None = None) -> int:
    assert __doc__ is not None, "its first line is what --help shows"
    parser = argparse.ArgumentParser(
        prog="llama-ds-checkpoint", description=__doc__.splitlines()[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("export", help="write a run's model as a Hugging Face folder")
    command.add_argument("run_dir", type=Path)
    command.add_argument("out_dir", type=Path)
    command.add_argument("--step", type=int, help="checkpoint to take; the newest by default")
    command.add_argument("--dtype", choices=get_args(Dtype), help="the run's by default")
    command.add_argument("--push-to-hub", metavar="USER/NAME", help="push it, as a private model")
    command.add_argument("--public", action="store_true", help="with --push-to-hub, not private")
    command = commands.add_parser("average", help="export the mean of several checkpoints' weights")
    command.add_argument("run_dir", type=Path)
    command.add_argument("out_dir", type=Path)
    which = command.add_mutually_exclusive_group(required=True)
    which.add_argument("--last", type=int, metavar="N", help="the newest N complete ones")
    which.add_argument("--steps", type=int, nargs="+", help="those of these steps")
    command.add_argument("--dtype", choices=get_args(Dtype), help="the run's by default")
    command = commands.add_parser("verify", help="list a run's checkpoints, and what is wrong")
    command.add_argument("run_dir", type=Path)
    options = parser.parse_args(arguments)
    try:
        if options.command == "verify":
            return verify(options.run_dir)
        # Not above: `--help` needs no torch, and a package that is missing is one line.
        from llama_ds.checkpoint.export import average, export, last_complete

        run_dir, out_dir = options.run_dir, options.out_dir
        if options.command == "average":
            steps = options.steps or last_complete(run_dir, options.last)
            names = [path.name for path in average(run_dir, out_dir, steps, options.dtype)]
            print(f"mean of {', '.join(names)} -> {out_dir}")  # noqa: T201
            return 0
        if options.push_to_hub is not None:
            from data_pipeline.release.hub_login import require_login
            from llama_ds.checkpoint.hub import push_to_hub

            require_login(options.push_to_hub)
        checkpoint = export(run_dir, out_dir, options.step, options.dtype)
    except ModuleNotFoundError as error:
        message = f"the package {error.name} is not installed; pip install 'llama-ds[train]'"
        print(f"error: {message}", file=sys.stderr)  # noqa: T201
        return 2
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    print(f"{checkpoint} -> {options.out_dir}")  # noqa: T201
    if options.push_to_hub is not None:
        message = f"Step {int(checkpoint.name.removeprefix('step_')):,}"
        private = not options.public
        url = push_to_hub(options.out_dir, options.push_to_hub, message=message, private=private)
        print(f"{options.out_dir} -> {url}")  # noqa: T201
    return 0


def verify(run_dir: Path) -> int:
    """Print a line for each checkpoint, newest first; the exit code."""
    from llama_ds.checkpoint.verification import all_checkpoints, damage_of, read_run

    found = all_checkpoints(run_dir)
    if not found:
        raise ValueError(f"{run_dir} has no checkpoint; name another run folder")
    num_damaged = 0
    for path in found:
        damage = damage_of(path)
        if damage is None:
            size = sum(entry["bytes"] for entry in read_run(path)["files"].values())
            print(f"{path.name}  complete, {size / 2**30:.2f} GiB")  # noqa: T201
        else:
            num_damaged += 1
            print(f"{path.name}  damaged: {damage}")  # noqa: T201
    return 1 if num_damaged else 0


if __name__ == "__main__":
    sys.exit(main())
