"""Held-out bits per byte of small models after equal CPU time, to choose the quickstart's sizes.

    python -m benchmarks.model.quickstart_sizes --work FOLDER [--candidate V,D,L,R,S,LR]

A candidate is a vocabulary, a hidden size, a number of layers, rows and sequence length of a step,
and the peak learning rate. All are given the same CPU time: steps of all candidates are first timed
in turns, then each is trained for as many as fit, in one process on one thread, on the built-in
corpus, and judged on all of its held-out text. Bits per byte compare models across tokenizers,
where losses per token do not.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from benchmarks.measuring import results
from benchmarks.model.steppers import TorchStepper
from data_pipeline.tokens.store import TokenStore
from llama_ds.config import Recipe
from llama_ds.data import HeldOutData, TrainingData
from llama_ds.hf_config import hf_config
from llama_ds.model import LlamaForCausalLM
from llama_ds.schedule import learning_rate
from recipes.llama import llama_tiny
from recipes.quickstart import Quickstart, TokenizerOptions, build_store, held_out_prompt


@dataclasses.dataclass(frozen=True)
class Candidate:
    vocab_size: int
    hidden_size: int
    num_layers: int
    rows: int
    sequence_length: int
    peak_learning_rate: float

    @classmethod
    def parse(cls, text: str) -> Candidate:
        *sizes, rate = text.split(",")
        if len(sizes) != 5:
            raise argparse.ArgumentTypeError(f"{text!r} must be V,D,L,R,S,LR")
        v, d, layers, rows, length = (int(size) for size in sizes)
        return cls(v, d, layers, rows, length, float(rate))

    def __str__(self) -> str:
        return (
            f"{self.vocab_size} pieces, {self.hidden_size} x {self.num_layers}, "
            f"{self.rows} x {self.sequence_length} tokens, {self.peak_learning_rate:g}"
        )

    def recipe(self, num_steps: int) -> Recipe:
        """`llama_tiny` in this size; heads of 32, an MLP of 8/3 of the hidden size."""
        tiny = llama_tiny()
        heads = self.hidden_size // 32
        model = dataclasses.replace(
            tiny.model,
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=math.ceil(self.hidden_size * 8 / 3 / 32) * 32,
            num_hidden_layers=self.num_layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=self.sequence_length,
        )
        optimizer = dataclasses.replace(
            tiny.optimizer,
            peak_learning_rate=self.peak_learning_rate,
            warmup_steps=max(1, min(100, num_steps // 8)),
        )
        train = dataclasses.replace(
            tiny.train,
            sequence_length=self.sequence_length,
            tokens_per_step=self.rows * self.sequence_length,
            micro_batch_size=self.rows,
            max_steps=num_steps,
        )
        return dataclasses.replace(tiny, model=model, optimizer=optimizer, train=train)


# The model that the quickstart had first, then what was tried against it.
DEFAULT = (
    Candidate(4_096, 288, 8, 8, 256, 2e-3),
    Candidate(2_048, 128, 4, 8, 256, 6e-3),
    Candidate(2_048, 128, 4, 8, 256, 1.5e-2),
    Candidate(2_048, 128, 4, 16, 256, 1e-2),
    Candidate(2_048, 192, 4, 8, 256, 5e-3),
)


class Trial:
    """A candidate's model, optimizer and data."""

    def __init__(self, candidate: Candidate, store: TokenStore, num_steps: int) -> None:
        torch.manual_seed(0)
        self.recipe = candidate.recipe(num_steps)
        manifest = store.manifest
        config = hf_config(
            self.recipe.model,
            bos_token_id=manifest.bos_token_id,
            eos_token_id=manifest.eos_token_id,
            dtype=torch.float32,
        )
        self.model = LlamaForCausalLM(config)
        self.stepper = TorchStepper(self.model, self.recipe, torch.device("cpu"))
        length = candidate.sequence_length
        self.store = store
        self.rows = candidate.rows
        self.data = TrainingData(store, self.recipe.data, length, seed=0)
        self.held_out = HeldOutData(store, length, num_rows=1_000_000)
        self.held_out_bytes = sum(
            manifest.sources[name]["validation"].num_text_bytes for name in store.sources
        )

    def step(self, number: int) -> float:
        """Loss of a step, in nats per token."""
        rate = learning_rate(number, self.recipe.optimizer, self.recipe.train.num_steps)
        for group in self.stepper.optimizer.param_groups:
            group["lr"] = rate
        first = number * self.rows
        batch = self.data.rows(range(first, first + self.rows))
        return self.stepper.step([batch.input_ids_BS])

    @torch.no_grad()
    def bits_per_byte(self) -> float:
        """Of all held-out text."""
        self.model.train(False)
        nats = 0.0
        for _, batch in self.held_out.micro_batches(0, 1, 16):
            outputs = self.model(
                input_ids=batch.input_ids_BS,
                shift_labels=batch.labels_BS,
                num_items_in_batch=1,
                skip_logits=True,
                use_cache=False,
            )
            nats += float(outputs.loss)
        self.model.train()
        return nats / math.log(2) / self.held_out_bytes

    def sample(self) -> str:
        """What the model makes of the beginning of a held-out document."""
        tokenizer: Any = AutoTokenizer.from_pretrained(self.store.tokenizer_dir)
        prompt = held_out_prompt(self.store, self.store.tokenizer_dir)
        inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        torch.manual_seed(0)
        how = {"do_sample": True, "temperature": 0.7, "top_p": 0.95, "max_new_tokens": 160}
        ids = self.model.train(False).generate(
            **inputs, **how, pad_token_id=tokenizer.eos_token_id
        )[0]
        text: str = tokenizer.decode(ids, skip_special_tokens=True)
        return text


def store_of(work: Path, vocab_size: int) -> TokenStore:
    """The quickstart's store with this vocabulary; built where it is not there yet."""
    out = work / f"v{vocab_size}"
    if not (out / "store" / "manifest.json").exists():
        build_store(Quickstart(out=out, tokenizer=TokenizerOptions(vocab_size=vocab_size)))
    return TokenStore.open(out / "store")


def step_seconds(work: Path, candidates: list[Candidate], rounds: int) -> dict[Candidate, float]:
    """Median CPU time of a step, of all candidates in turns."""
    trials = {one: Trial(one, store_of(work, one.vocab_size), rounds + 1) for one in candidates}
    times: dict[Candidate, list[float]] = {one: [] for one in candidates}
    for number in range(rounds + 1):
        for one, trial in trials.items():
            duration, _ = results.seconds(lambda t=trial: t.step(number), torch.device("cpu"))  # type: ignore[misc]  # noqa: B023
            if number:  # the first allocates
                times[one].append(duration)
    return {one: statistics.median(values) for one, values in times.items()}


def main(arguments: list[str] | None = None) -> None:
    assert __doc__ is not None, "its first line is what --help shows"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for the token stores")
    parser.add_argument("--seconds", type=float, default=300.0, help="CPU time of a training")
    parser.add_argument("--rounds", type=int, default=5, help="steps that are timed")
    parser.add_argument("--candidate", type=Candidate.parse, action="append", dest="candidates")
    parser.add_argument("--out", type=Path, help="folder of the result file; none by default")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    candidates = options.candidates or list(DEFAULT)
    commit = results.commit()
    seconds = step_seconds(options.work, candidates, options.rounds)
    rows: list[list[str]] = []
    samples: list[str] = []
    for one in candidates:
        num_steps = max(1, int(options.seconds / seconds[one]))
        trial = Trial(one, store_of(options.work, one.vocab_size), num_steps)
        before = trial.bits_per_byte()
        for number in range(num_steps):
            trial.step(number)
        after = trial.bits_per_byte()
        num_tokens = num_steps * one.rows * one.sequence_length
        parameters = sum(weight.numel() for weight in trial.model.parameters())
        rows.append(
            [
                *(str(one), f"{parameters / 1e6:.2f} M", f"{seconds[one] * 1e3:.0f} ms"),
                *(f"{num_steps:,}", f"{num_tokens / 1e6:.2f} M", f"{before:.3f}", f"{after:.3f}"),
            ]
        )
        samples.append(f"{one}:\n\n```\n{trial.sample()}\n```")
        print("  ".join(rows[-1]), samples[-1], sep="\n", flush=True)
    header = ["candidate", "parameters", "a step", "steps", "tokens"]
    table = results.table([*header, "bits per byte before", "after"], rows)
    title = f"# Sizes of the quickstart, each in {options.seconds:.0f} s of CPU time\n"
    text = [title, f"`{results.command()}` at {commit}, {results.hardware(torch.device('cpu'))}\n"]
    print("\n".join([*text, table]))
    if options.out is not None:
        stem = results.result_stem(options.out, "quickstart", torch.device("cpu"))
        results.write(stem, [*text, table, *samples], rows)


if __name__ == "__main__":
    main()
