"""Cost of asking whether the fused layer may run, as a share of a training step.

    python -m benchmarks.model.eligibility [--out benchmarks/results] [--rehearse]

Before each forward pass the model makes sure that nothing was set on its modules
(`llama_ds/layer/deviation.py`), for the decoder layers and for the head. Timed are that question
where nothing has changed; the same where every layer has a note of another library, as ZeRO-3
counts on layers; the comparison after a change; and a step, forward and backward, of the same model
in the same rounds. Shares are medians over rounds. The step is on one CPU thread, in CPU time of
the process, or on the GPU where there is one. `--rehearse` runs everything in a small size.
"""
# transformers' classes carry no types.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring import results as report
from llama_ds import LlamaForCausalLM
from llama_ds.hf_config import hf_config
from llama_ds.model_config import ModelConfig

ASKED = 100
"""Times that the question is asked in a round: once is shorter than the clock's steps."""
SMALL = ModelConfig(256, 688, 4, 4, 4, vocab_size=4_096)
SIZES = {
    "a small model, short rows": (SMALL, 128),
    "a small model": (SMALL, 512),
    "a deep model": (replace(SMALL, num_hidden_layers=32), 512),
}


@dataclass(frozen=True)
class Result:
    name: str
    num_layers: int
    tokens: int
    asking_seconds: list[float]
    asking_with_notes_seconds: list[float]
    comparing_seconds: list[float]
    step_seconds: list[float]

    def share(self, seconds: list[float]) -> str:
        """Of a step, for a table."""
        return f"{100 * report.paired_ratio(seconds, self.step_seconds):.3f} %"


def measure(name: str, size: ModelConfig, tokens: int, rounds: int) -> Result:
    device = report.device_of_choice()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    config = hf_config(size, bos_token_id=1, eos_token_id=2, dtype=dtype)
    model: Any = LlamaForCausalLM._from_config(config).to(device, dtype).train()
    ids = torch.randint(size.vocab_size, (1, tokens), generator=torch.Generator().manual_seed(0))
    ids = ids.to(device)
    hidden_states = model.model.embed_tokens(ids)

    def ask() -> None:
        reason = model.model._reason_not_fusable(hidden_states, None, False, {})
        assert reason is None, f"the layer is not fused: {reason}"
        assert model._head_computes_loss(), "the loss is not computed in chunks"

    def note_and_ask() -> None:
        for layer in model.model.layers:
            layer.note = object()
        ask()

    def change_and_ask() -> None:
        for module in (model.model.layers[0].mlp, model.lm_head):
            module.train(not module.training)
        ask()

    def step() -> None:
        model.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()

    times: list[list[float]] = [[], [], [], []]
    for round_number in range(rounds + 1):
        found = [
            timed(ask, device, ASKED),
            timed(note_and_ask, device, ASKED),
            timed(change_and_ask, device, 4),
            timed(step, device),
        ]
        # The first round warms up caches and the allocator.
        if round_number > 0:
            for column, seconds in zip(times, found, strict=True):
                column.append(seconds)
    return Result(name, size.num_hidden_layers, tokens, *times)


def timed(function: Callable[[], None], device: torch.device, calls: int = 1) -> float:
    """Seconds of one of `calls` calls."""

    def repeated() -> None:
        for _ in range(calls):
            function()

    return report.seconds(repeated, device)[0] / calls


def table(results: list[Result]) -> str:
    header = (
        *("", "layers", "tokens", "step, ms"),
        *("asking, ms", "share", "asking with notes, ms", "share", "after a change, ms"),
    )
    rows = [
        [
            result.name,
            str(result.num_layers),
            str(result.tokens),
            f"{1e3 * statistics.median(result.step_seconds):.1f}",
            f"{1e3 * statistics.median(result.asking_seconds):.3f}",
            result.share(result.asking_seconds),
            f"{1e3 * statistics.median(result.asking_with_notes_seconds):.3f}",
            result.share(result.asking_with_notes_seconds),
            f"{1e3 * statistics.median(result.comparing_seconds):.2f}",
        ]
        for result in results
    ]
    return report.table(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="cost of asking whether the fused layer may run")
    parser.add_argument("--out", type=Path, default=report.RESULTS)
    parser.add_argument("--rehearse", action="store_true", help="everything in a small size")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device, code = report.device_of_choice(), report.commit()
    sizes, rounds = dict(SIZES), 7
    if arguments.rehearse:
        sizes, rounds = {"a tiny model": (ModelConfig(32, 88, 2, 4, 2, vocab_size=64), 32)}, 2
    results = [measure(name, size, tokens, rounds) for name, (size, tokens) in sizes.items()]
    parts = [
        "# Asking whether the fused layer may run: its share of a step",
        f"hidden_size {SMALL.hidden_size}, one row, {rounds} rounds; {report.hardware(device)}, "
        f"one thread, {'wall time' if device.type == 'cuda' else 'CPU time of the process'}, "
        "medians. A step is one forward and one backward pass, without the optimizer.",
        f"{report.versions('torch', 'transformers')}, commit {code}. "
        f"Command: `{report.command()}`.",
        table(results),
        "Asking happens in every forward pass; the comparison once after each change, also that "
        "from training to evaluation and back. Both grow with the number of layers, and with "
        "nothing else: wider models, longer rows and more rows make the share smaller.",
    ]
    stem = report.result_stem(arguments.out, "eligibility", device)
    print(report.write(stem, parts, [asdict(result) for result in results]))


if __name__ == "__main__":
    main()
