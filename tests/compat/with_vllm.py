"""The export in vLLM's build for CPUs: ids, greedy tokens, and log-likelihoods of the prompt."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tests.compat.expected import held, read_expected

SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
}


def main(out: Path) -> None:
    os.environ.update(SETTINGS)
    from vllm import LLM, SamplingParams

    held(
        f"vllm-cpu {version('vllm-cpu')}, torch {torch.__version__}, transformers "
        f"{version('transformers')}"
    )
    model: Any = LLM(str(out / "model"), dtype="float32", enforce_eager=True, max_num_seqs=2)
    worst = 0.0
    for case in read_expected(out):
        wanted = SamplingParams(
            temperature=0.0,
            max_tokens=len(case.greedy) - len(case.ids),
            prompt_logprobs=0,
            ignore_eos=True,
        )
        (answer,) = model.generate([case.prompt], wanted, use_tqdm=False)
        assert answer.prompt_token_ids == case.ids, (answer.prompt_token_ids, case.ids)
        written = [*case.ids, *answer.outputs[0].token_ids]
        assert written == case.greedy, (written, case.greedy)
        log_probabilities = torch.tensor(case.logits).log_softmax(-1)
        for place, found in enumerate(answer.prompt_logprobs[1:], start=1):
            token = case.ids[place]
            error = found[token].logprob - float(log_probabilities[place - 1, token])
            worst = max(worst, abs(error))
    held("the same ids and greedy tokens")
    assert worst < 1e-4, worst  # fp32 sums in another order
    held(f"log-likelihoods of the prompts within {worst:.1e}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
