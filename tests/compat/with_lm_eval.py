"""The export in EleutherAI's harness: log-likelihoods of continuations."""
# transformers' functions carry no types.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from tests.compat.expected import held, read_expected


def main(out: Path) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    held(f"lm-eval {version('lm_eval')}")
    model: Any = HFLM(pretrained=str(out / "model"), device="cpu", dtype="float32", batch_size=1)
    tokenizer: Any = AutoTokenizer.from_pretrained(out / "model")
    worst = 0.0
    for case in read_expected(out):
        context, _, continuation = case.prompt.rpartition(" ")
        pair = (context, f" {continuation}")
        ((found, _),) = model.loglikelihood(
            [Instance("loglikelihood", {}, pair, 0)], disable_tqdm=True
        )
        start = len(tokenizer(context)["input_ids"])
        log_probabilities = torch.tensor(case.logits).log_softmax(-1)
        wanted = sum(
            float(log_probabilities[place - 1, case.ids[place]])
            for place in range(start, len(case.ids))
        )
        worst = max(worst, abs(found - wanted))
    assert worst < 1e-4, worst  # fp32 sums in another order
    held(f"`HFLM(pretrained=...)`: log-likelihoods within {worst:.1e}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
