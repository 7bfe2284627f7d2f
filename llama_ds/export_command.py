"""The command `llama-ds-export`: a training run's model as a Hugging Face folder.

    llama-ds-export RUN_DIR OUT_DIR [--step N] [--dtype bf16|fp32]

Reading a checkpoint takes DeepSpeed, which wrote it: the extra `train`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Run the command with `arguments`, those of the process by default; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="llama-ds-export", description="Write a run's model as a Hugging Face folder."
    )
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="folder of the training run")
    parser.add_argument("out_dir", type=Path, metavar="OUT_DIR", help="folder to make")
    parser.add_argument("--step", type=int, help="checkpoint to take; the newest by default")
    parser.add_argument("--dtype", choices=("bf16", "fp32"), help="the recipe's by default")
    options = parser.parse_args(arguments)
    try:
        # Not above: `--help` needs no torch, and what is missing is then one line.
        from llama_ds.checkpoint import export

        checkpoint = export(options.run_dir, options.out_dir, options.step, options.dtype)
    except ModuleNotFoundError as error:
        message = f"the package {error.name} is not installed; pip install 'llama-ds[train]'"
        print(f"error: {message}", file=sys.stderr)  # noqa: T201
        return 2
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    print(f"{checkpoint} -> {options.out_dir}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
