"""Trains a model for a moment, exports it, and writes what stock transformers makes of it."""
# transformers' functions carry no types.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM, AutoTokenizer

from llama_ds.checkpoint.export import export
from llama_ds.train import train
from tests.support.tiny_run import make_store, tiny_recipe

PROMPTS = ["the red cat", "a dog sees", "small house and 23 trees"]
NEW_TOKENS = 16
SIZES = {  # a head of 32, which every runtime has
    "model.hidden_size": 128,
    "model.intermediate_size": 256,
    "model.num_attention_heads": 4,
    "model.num_key_value_heads": 2,
}


def main(out: Path) -> None:
    (out / "rendezvous").unlink(missing_ok=True)
    for old in ("store", "documents", "tokenizer", "run", "model"):
        shutil.rmtree(out / old, ignore_errors=True)
    recipe = tiny_recipe(
        make_store(out),
        out / "run",
        **SIZES,
        **{"train.max_steps": 60, "checkpoint.every_steps": 60},
    )
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "DS_ACCELERATOR": "cpu"}
    dist.init_process_group("gloo", init_method=f"file://{out}/rendezvous", rank=0, world_size=1)
    train(recipe, local_rank=0)
    dist.destroy_process_group()
    export(recipe.run_dir, out / "model", dtype="fp32")

    tokenizer = AutoTokenizer.from_pretrained(out / "model")
    model: Any = AutoModelForCausalLM.from_pretrained(out / "model", dtype=torch.float32)
    expected = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt")
        with torch.no_grad():
            logits = model(**ids).logits[0]
            made = model.generate(**ids, max_new_tokens=NEW_TOKENS, do_sample=False)
        expected.append(
            {
                "prompt": prompt,
                "ids": ids["input_ids"][0].tolist(),
                "logits": logits.tolist(),
                "greedy": made[0].tolist(),
                "text": tokenizer.decode(made[0], skip_special_tokens=True),
            }
        )
    (out / "expected.json").write_text(json.dumps(expected))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
