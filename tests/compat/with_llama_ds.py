"""The export in our model class, under the oldest transformers that it supports."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoTokenizer

from llama_ds import LlamaForCausalLM
from tests.compat.expected import held, read_expected


def main(out: Path) -> None:
    held(f"transformers {transformers.__version__}, torch {torch.__version__}")
    tokenizer = AutoTokenizer.from_pretrained(out / "model")
    model: Any = LlamaForCausalLM.from_pretrained(out / "model", dtype=torch.float32)
    worst = 0.0
    for case in read_expected(out):
        ids = tokenizer(case.prompt, return_tensors="pt")
        with torch.no_grad():
            logits = model(**ids).logits[0]
            made = model.generate(
                **ids, max_new_tokens=len(case.greedy) - len(case.ids), do_sample=False
            )
        worst = max(worst, float((logits - torch.tensor(case.logits)).abs().max()))
        assert made[0].tolist() == case.greedy, case.prompt
    assert worst < 1e-4, worst  # as in with_transformers.py
    loss = model(**ids, labels=ids["input_ids"]).loss
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    held(f"`llama_ds.LlamaForCausalLM`: greedy tokens, logits within {worst:.1e}, a backward pass")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
