"""Quickstart: trains a small LLaMA end to end, on a built-in corpus or your own text.

Every stage publishes its folder atomically and reuses one that is up to date, so rerunning the
command resumes an interrupted run:

    OUT/documents/  ->  OUT/tokenizer/  ->  OUT/store/  ->  OUT/run/  ->  OUT/model/
"""

from __future__ import annotations

import math
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from data_pipeline.commands.one_line_errors import errors_in_one_line
from llama_ds.config import Recipe
from recipes.command_line import bad_input
from recipes.launch import parse
from recipes.llama import llama_tiny
from recipes.process_tree import TOP_VARIABLE

if TYPE_CHECKING:
    from data_pipeline.tokens.store import TokenStore

RECIPE = Path(__file__).with_name("pretrain_tiny.sh")
SAMPLE_BYTES = 20_000_000  # text for the tokenizer: seconds of training, and plenty for 2048 pieces


@dataclass(frozen=True)
class TokenizerOptions:
    vocab_size: int = 2048
    """Vocabulary size of the tokenizer and of the model's embedding."""


@dataclass(frozen=True)
class Quickstart:
    """Train a small LLaMA, from text to a Hugging Face model.

    Other options are passed to the training recipe: --train.max-steps 300.
    """

    corpus: Path | None = None
    """Folder or file of text, JSON lines or Parquet; by default the source files and documents of
    the Python installation."""
    out: Path = Path("runs/quickstart")
    """Output folder; an earlier run in it is resumed."""
    text_field: str = "text"
    """Field of JSON lines, or column of Parquet, that holds the text."""
    holdout: float = 0.02
    """Held-out share of the documents (validation split), chosen by document hash."""
    prompt: str | None = None
    """Prompt of the generated sample; by default the beginning of a held-out document."""
    tokenizer: TokenizerOptions = field(default_factory=TokenizerOptions)
    jobs: Annotated[int, tyro.conf.arg(help="Processes for reading and tokenizing.")] = (
        os.cpu_count() or 1
    )


def main() -> None:
    try:
        options, recipe, overrides = _parse(sys.argv[1:])
        code = run(options, recipe, overrides)
    except (ValueError, OSError) as error:
        code = bad_input(error)
    except KeyboardInterrupt:
        print("interrupted; rerun the command to resume", file=sys.stderr)
        code = 130
    sys.exit(code)


def _parse(arguments: Sequence[str]) -> tuple[Quickstart, Recipe, list[str]]:
    """The quickstart's options, the resulting recipe, and that recipe's command line."""
    with errors_in_one_line():
        options, rest = tyro.cli(
            Quickstart, args=arguments, prog="quickstart.sh", return_unknown_args=True
        )
    overrides = [
        *("--data.store", str(options.out / "store"), "--run-dir", str(options.out / "run")),
        *("--model.vocab-size", str(options.tokenizer.vocab_size)),
        *rest,
    ]
    return options, parse(llama_tiny, overrides).recipe, overrides


def run(options: Quickstart, recipe: Recipe, overrides: list[str]) -> int:
    start = time.perf_counter()
    build_store(options)
    if not _num_usable_gpus(recipe):
        os.environ["DS_ACCELERATOR"] = "cpu"  # DeepSpeed warns when it has to find that out
    if code := pretrain(recipe, overrides):
        return code
    finish(options, recipe)
    print(f"\nAll of it took {time.perf_counter() - start:.0f} s.")
    return 0


def build_builtin_store(store: Path) -> None:
    """Build the quickstart's store, for runs of its recipe without the quickstart."""
    assert store.name == "store", f"the quickstart's store is OUT/store, not {store}"
    build_store(Quickstart(out=store.parent))


def build_store(options: Quickstart) -> None:
    """Text -> documents -> tokenizer -> token store."""
    # Imported here, so that a wrong option is reported before anything heavy is loaded.
    from data_pipeline.build.build_corpus import build_corpus
    from data_pipeline.build.old_results import OldResults
    from data_pipeline.corpus import text_corpus
    from data_pipeline.executors.local import Processes
    from data_pipeline.tokens import store_building, tokenizer_training
    from recipes.small_corpora import builtin_corpus

    _title("1/5 documents")
    if options.corpus is None:
        corpus = builtin_corpus()
    else:
        corpus = text_corpus(options.corpus, text_field=options.text_field)
    folder = options.out / "documents"
    manifests = build_corpus(
        corpus.sources,
        folder,
        rules=corpus.rules,
        executor=Processes(options.jobs),
        # Small, and cheap to rebuild.
        found_old=OldResults.forget,
    )
    for name, manifest in manifests.items():
        dropped = ", ".join(f"{count} {reason}" for reason, count in manifest.dropped.items())
        print(
            f"{name}: {manifest.num_read:,} documents read, {manifest.num_kept:,} kept "
            f"({manifest.num_text_bytes / 1e6:.1f} MB); dropped: {dropped or 'none'}"
        )
    documents = {name: folder / name for name in manifests}

    _title("2/5 tokenizer")
    tokenizer = options.out / "tokenizer"
    config = tokenizer_training.TokenizerConfig(
        vocab_size=options.tokenizer.vocab_size, sample_bytes=SAMPLE_BYTES
    )
    tokenizer_training.train_tokenizer(documents, tokenizer, config)

    _title("3/5 token store")
    store_building.build_store(
        options.out / "store",
        documents,
        tokenizer,
        holdout_share=options.holdout,
        executor=Processes(options.jobs),
    )


def pretrain(recipe: Recipe, overrides: list[str]) -> int:
    """Run the recipe's script as a user would; returns its exit code."""
    _title("4/5 pre-training")
    environment = {**os.environ, TOP_VARIABLE: str(os.getpid())}
    if num_gpus := _num_usable_gpus(recipe):
        rows = recipe.train.tokens_per_step // recipe.train.sequence_length
        overrides = ["--train.micro-batch-size", str(rows // num_gpus), *overrides]
        environment.setdefault("DEEPSPEED_ARGS", f"--num_gpus {num_gpus}")
    command = ["bash", str(RECIPE), *overrides]
    print(shlex.join(command), flush=True)
    process = subprocess.Popen(command, env=environment)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.wait()  # it saves a checkpoint first
        raise


def _num_usable_gpus(recipe: Recipe) -> int:
    """Largest number of GPUs of this machine that divides the rows of a step; 0 without a GPU."""
    import torch

    rows = recipe.train.tokens_per_step // recipe.train.sequence_length
    counts = range(1, min(torch.cuda.device_count(), rows) + 1)
    return max((count for count in counts if rows % count == 0), default=0)


def finish(options: Quickstart, recipe: Recipe) -> None:
    """Export, reload with stock transformers, generate, and print a summary."""
    from data_pipeline.tokens.store import TokenStore
    from llama_ds.checkpoint.export import export
    from llama_ds.metrics import plot_losses, read_metrics

    _title("5/5 export")
    model = options.out / "model"
    if model.exists():
        shutil.rmtree(model)
    checkpoint = export(recipe.run_dir, model)
    curve = plot_losses(recipe.run_dir)
    losses = [record["loss"] for record in read_metrics(recipe.run_dir / "metrics.jsonl", "eval")]
    print(f"exported {checkpoint} to {model}")
    store = TokenStore.open(options.out / "store")
    prompt = held_out_prompt(store, model) if options.prompt is None else options.prompt
    print(_sample(model, prompt))
    before, after = (bits_per_byte(store, loss) for loss in (losses[0], losses[-1]))
    steps = recipe.train.num_steps
    first_line = prompt.strip().split("\n")[0]
    generate = [_python(), "-m", "llama_ds.generate", str(recipe.run_dir), "--prompt", first_line]
    print(f"""
held-out loss: {losses[0]:.4f} before training, {losses[-1]:.4f} after {steps} steps
               {before:.2f} and {after:.2f} bits per byte of text
loss curve:    {curve}
metrics:       {recipe.run_dir}/metrics.jsonl, tensorboard --logdir {recipe.run_dir}/tensorboard
model:         {model} (for AutoModelForCausalLM.from_pretrained in stock transformers)

Next:
  more text:      {shlex.join(generate)} --temperature 0.8
  train longer:   bash recipes/quickstart.sh {_longer(sys.argv[1:], 2 * steps)}
                  (goes on from step {steps}; the learning rate rises again: a longer cosine)
  your own text:  bash recipes/quickstart.sh --corpus FOLDER --out runs/mine
  the real thing: bash recipes/pretrain_65b.sh --dry-run --world-size 2048""")


def held_out_prompt(store: TokenStore, tokenizer_dir: Path, num_tokens: int = 32) -> str:
    """The first words of a document that was not trained on."""
    from transformers import AutoTokenizer

    source = max(store.sources, key=lambda name: store.stream(name, "validation").num_tokens)
    stream = store.stream(source, "validation")
    ids = stream.window(0, min(num_tokens, stream.num_tokens)).tolist()
    tokenizer: Any = AutoTokenizer.from_pretrained(tokenizer_dir)
    text: str = tokenizer.decode(ids, skip_special_tokens=True)
    # The last word may go on in the next token.
    return text[: max(text.rfind(" "), text.rfind("\n"))] if len(text.split()) > 1 else text


def bits_per_byte(store: TokenStore, loss: float) -> float:
    """A held-out loss in nats per token, by the bytes of held-out text that a token stands for."""
    held_out = [store.manifest.sources[name]["validation"] for name in store.sources]
    num_bytes = sum(split.num_text_bytes for split in held_out)
    return loss / math.log(2) * sum(split.num_tokens for split in held_out) / num_bytes


def _python() -> str:
    """The interpreter that has the packages, by the shorter of its names."""
    return min(sys.executable, os.path.relpath(sys.executable), key=len)


def _longer(arguments: Sequence[str], num_steps: int) -> str:
    """The same command line with another number of steps."""
    words = list(arguments)
    if "--train.max-steps" in words:
        at = words.index("--train.max-steps")
        del words[at : at + 2]
    words = [word for word in words if not word.startswith("--train.max-steps=")]
    return shlex.join([*words, "--train.max-steps", str(num_steps)])


def _sample(model_dir: Path, prompt: str) -> str:
    """Text generated from the exported folder by stock transformers, without our own code."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
    from transformers.utils import logging

    logging.disable_progress_bar()
    model: Any = AutoModelForCausalLM.from_pretrained(model_dir)
    tokenizer: Any = AutoTokenizer.from_pretrained(model_dir)
    assert type(model).__module__.startswith("transformers."), f"{type(model)} is not stock"
    set_seed(0)
    inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
    how = {"do_sample": True, "temperature": 0.7, "top_p": 0.95, "max_new_tokens": 160}
    ids = model.generate(**inputs, **how, pad_token_id=tokenizer.eos_token_id)[0]
    text = tokenizer.decode(ids, skip_special_tokens=True)
    num_prompt = len(tokenizer.decode(inputs["input_ids"][0], skip_special_tokens=True))
    name = f"{type(model).__module__}.{type(model).__name__}"
    return (
        f"\nsample from {name}\n"
        f"\n  prompt:\n{_quoted(text[:num_prompt])}"
        f"\n  continued with:\n{_quoted(text[num_prompt:])}"
    )


def _quoted(text: str) -> str:
    return "".join(f"    | {line}\n" for line in text.split("\n"))


def _title(text: str) -> None:
    print(f"\n== {text}", flush=True)


if __name__ == "__main__":
    main()
