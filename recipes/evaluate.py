"""Evaluates a model by the LLaMA paper's protocol, and puts the numbers beside the paper's.

bash recipes/evaluate.sh --model FOLDER_OR_RUN [--tasks paper] [--data FOLDER] [--out DIR]
torchrun --nproc-per-node N recipes/evaluate.sh ...     (N ranks share the questions)

Writes results.md, results.html and results.json, and what was judged of every sample, into --out;
started again with the same --out it continues. docs/how-to/evaluate.md has tasks and data.
Exit codes: 0, all is well; 2, bad input; 130, Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from recipes.command_line import bad_input
from recipes.scheduler import rank_variables

ROOT = Path(__file__).resolve().parents[1]
DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
PROGRAM_SECONDS = 3
"""As HumanEval's own harness."""


def main(arguments: list[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    try:
        os.environ |= rank_variables(os.environ)
        _evaluate(options)
    except ModuleNotFoundError as error:
        missing = f"the package {error.name} is not installed; pip install 'llama-ds[eval]'"
        print(f"error: {missing}", file=sys.stderr)
        sys.exit(2)
    except (ValueError, OSError) as error:
        sys.exit(bad_input(error))
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":
            print("interrupted; the same command continues", file=sys.stderr)
        sys.exit(130)


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        prog="evaluate.sh",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument(
        "--model", type=Path, required=True, help="run, checkpoint or Hugging Face folder"
    )
    options.add_argument(
        "--tasks",
        default="paper",
        help="names and groups with commas: paper (all), common-sense, closed-book, reading, math, "
        "code, mmlu, bias, truthful; or available: those with files in --data",
    )
    options.add_argument("--data", type=Path, help="folder of local files; else the hub's sets")
    options.add_argument("--limit", type=int, help="questions of each task (of each of its parts)")
    options.add_argument("--shots", help="numbers of examples, as 0,1,5,64 (closed-book tasks)")
    options.add_argument("--out", type=Path, default=Path("evaluation"), help="evaluation")
    options.add_argument("--samples", type=int, help="texts drawn of each question; the paper's")
    options.add_argument("--tp", type=int, default=1, help="ranks that share a model; 1")
    options.add_argument("--dtype", choices=DTYPES, help="of the weights; the model's by default")
    options.add_argument("--device", choices=("cpu", "cuda"), help="a GPU where there is one")
    options.add_argument("--batch-tokens", type=int, help="of a batch; by the free memory")
    options.add_argument("--seed", type=int, default=0, help="of what is drawn; 0")
    options.add_argument("--size", help="the paper's model to compare with; the nearest")
    options.add_argument("--against", type=Path, help="another --out folder to compare with")
    options.add_argument(
        "--run-code",
        action="store_true",
        help="execute programs that the model writes, confined (HumanEval, MBPP)",
    )
    options.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # deepspeed's
    return options


def _evaluate(options: argparse.Namespace) -> None:
    from transformers.utils import logging

    from llama_ds.evaluation.run import Evaluation, evaluate
    from llama_ds.evaluation.sandbox import Sandbox
    from llama_ds.torchrun_ranks import open_ranks

    logging.disable_progress_bar()
    sandbox = Sandbox(PROGRAM_SECONDS, num_workers=os.cpu_count() or 1)
    evaluation = Evaluation(
        model=options.model,
        tasks=options.tasks,
        data=options.data,
        limit=options.limit,
        shots=_numbers(options.shots),
        out=options.out,
        samples=options.samples,
        tp=options.tp,
        dtype=None if options.dtype is None else DTYPES[options.dtype],
        batch_tokens=options.batch_tokens,
        seed=options.seed,
        size=options.size,
        against=options.against,
        sandbox=sandbox if options.run_code else None,
        commit=_commit(),
    )
    with open_ranks(options.device, are_launched="RANK" in os.environ) as ranks:
        is_first = ranks.rank == 0
        evaluate(evaluation, ranks, lambda line: print(line, flush=True) if is_first else None)


def _numbers(words: str | None) -> tuple[int, ...] | None:
    if words is None:
        return None
    try:
        return tuple(int(word) for word in words.split(","))
    except ValueError:
        raise ValueError(f"--shots {words!r} must be numbers with commas, as 0,1,5,64") from None


def _commit() -> str | None:
    """Of this clone; None outside of one."""
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return found.stdout.strip() or None


if __name__ == "__main__":
    main()
