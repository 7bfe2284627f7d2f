"""Continue a prompt with a model, streamed: of a run, a checkpoint or a Hugging Face folder.

    llama-ds-generate RUN_OR_FOLDER --prompt TEXT
    llama-ds-generate RUN_OR_FOLDER --prompt-file FILE     (- is the standard input)
    llama-ds-generate RUN_OR_FOLDER                        (asks for prompts, on a terminal)
    torchrun --nproc-per-node 2 -m llama_ds.generate RUN_OR_FOLDER --prompt TEXT

`python -m llama_ds.generate` is the same. Of a run the newest complete checkpoint is taken, without
an export. Prompt and continuation go to the standard output, all else to the standard error.
Several processes share the model by tensor parallelism. Sampling options that are not given are the
model's own (generation_config.json). Exit codes: 0, all is well; 2, bad input; 130, Ctrl-C.
"""

from __future__ import annotations

import argparse
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from llama_ds.generate.sampling import Sampling

if TYPE_CHECKING:
    from llama_ds.torchrun_ranks import Ranks

DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        sampling = sampling_of(options)
        # Not above: `--help` needs no torch, and a package that is missing is one line.
        from llama_ds.torchrun_ranks import open_ranks

        with open_ranks(options.device) as ranks:
            run(options, sampling, ranks)
    except ModuleNotFoundError as error:
        _say(f"error: the package {error.name} is not installed; pip install 'llama-ds[train]'")
        return 2
    except (ValueError, OSError) as error:
        _say(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        prog="llama-ds-generate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("model", type=Path, metavar="RUN_OR_FOLDER")
    prompt = options.add_mutually_exclusive_group()
    prompt.add_argument("--prompt", help="text to continue")
    prompt.add_argument("--prompt-file", type=Path, help="without its last line break; -: stdin")
    options.add_argument("--max-new-tokens", type=int, default=128, help="128 by default")
    drawing = options.add_mutually_exclusive_group()
    drawing.add_argument("--do-sample", action="store_true", default=None, help="draw each token")
    drawing.add_argument(
        "--greedy", action="store_false", dest="do_sample", default=None, help="take the likeliest"
    )
    options.add_argument("--temperature", type=float, help="of drawing, which it switches on")
    options.add_argument("--top-k", type=int, help="draw among the K likeliest tokens")
    options.add_argument("--top-p", type=float, help="draw among the likeliest with probability P")
    options.add_argument("--repetition-penalty", type=float, help="above 1: repeat less")
    options.add_argument("--num-beams", type=int, help="beam search, which is not streamed")
    options.add_argument("--seed", type=int, help="of drawing; random by default, and printed")
    options.add_argument("--dtype", choices=DTYPES, help="of the weights; the model's by default")
    options.add_argument("--device", choices=("cpu", "cuda"), help="a GPU where there is one")
    return options


def sampling_of(options: argparse.Namespace) -> Sampling:
    """ValueError for a value that no model can take."""
    return Sampling(
        max_new_tokens=options.max_new_tokens,
        do_sample=options.do_sample,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        repetition_penalty=options.repetition_penalty,
        num_beams=options.num_beams,
        seed=options.seed,
    )


def run(options: argparse.Namespace, sampling: Sampling, ranks: Ranks) -> None:
    """Load the model, then continue the prompt, or each that is asked for."""
    import torch
    from transformers.utils import logging

    from llama_ds.generate.writer import Writer
    from llama_ds.loaded_model import model_folder

    logging.disable_progress_bar()
    folder = ranks.agreed(lambda: model_folder(options.model))
    prompt = ranks.agreed(lambda: prompt_of(options))
    dtype = None if options.dtype is None else getattr(torch, DTYPES[options.dtype])
    writer = Writer(folder, sampling, ranks, dtype)
    memory = writer.require_memory(prompt)
    say = _say if ranks.rank == 0 else lambda line: None
    say(f"{folder}: {memory}")
    seed = ranks.agreed(lambda: secrets.randbits(32) if sampling.seed is None else sampling.seed)
    torch.manual_seed(seed)
    drawn = f"; seed {seed}" if writer.draws else ""
    with writer.loaded():
        if prompt is not None:
            say(writer.write(prompt) + drawn)
            return
        while True:
            try:
                prompt = ranks.agreed(lambda: input("> "))
                if prompt:
                    say(writer.write(prompt) + drawn)
            except EOFError:
                return
            except ValueError as error:  # a prompt that is too long, say; the next may fit
                say(f"error: {error}")


def prompt_of(options: argparse.Namespace) -> str | None:
    """The prompt; None where it is to be asked for on a terminal. ValueError unless UTF-8."""
    path = options.prompt_file
    if options.prompt is not None:
        return str(options.prompt)
    if path is None and sys.stdin.isatty():
        return None
    is_stdin = path is None or str(path) == "-"
    data = sys.stdin.buffer.read() if is_stdin else path.read_bytes()
    try:
        text: str = data.decode("utf-8")
    except UnicodeDecodeError as error:
        name = "the standard input" if is_stdin else path
        raise ValueError(f"{name} is not UTF-8 text ({error.reason})") from None
    # Editors and echo end a text with a line break, which is no part of what is to be continued.
    return text.removesuffix("\n").removesuffix("\r")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
