"""The export in a transformers that is older than ours: ids, logits, greedy tokens, a pipeline."""
# transformers' functions carry no types.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.compat.expected import held, read_expected


def main(out: Path) -> None:
    held(f"transformers {transformers.__version__}, torch {torch.__version__}")
    expected = read_expected(out)
    tokenizer: Any = AutoTokenizer.from_pretrained(out / "model")
    model: Any = AutoModelForCausalLM.from_pretrained(out / "model", dtype=torch.float32)
    worst = 0.0
    for case in expected:
        ids = tokenizer(case.prompt, return_tensors="pt")
        assert ids["input_ids"][0].tolist() == case.ids, case.prompt
        with torch.no_grad():
            difference = (model(**ids).logits[0] - torch.tensor(case.logits)).abs().max()
            made = model.generate(
                **ids, max_new_tokens=len(case.greedy) - len(case.ids), do_sample=False
            )
        worst = max(worst, float(difference))
        assert made[0].tolist() == case.greedy, case.prompt
    # Other kernels of attention and another cast of the rotary tables, in fp32.
    assert worst < 1e-4, worst
    held(
        f"the same ids and greedy tokens, `generate(**tokenizer(text))`; logits within {worst:.1e}"
    )
    generator: Any = transformers.pipeline("text-generation", model=model, tokenizer=tokenizer)
    settings = {"max_new_tokens": 4, "do_sample": False, "batch_size": 2}
    answers = generator([case.prompt for case in expected], **settings)
    for case, (answer,) in zip(expected, answers, strict=True):
        assert case.text.startswith(answer["generated_text"].rstrip()), answer
    held("`pipeline(..., batch_size=2)` writes the same text")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
