"""Small models with a tokenizer, as Hugging Face folders and runs, and what stock continues."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.optim import AdamW
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, set_seed

from llama_ds.checkpoint.saving import CheckpointSaver
from llama_ds.config import CheckpointConfig
from llama_ds.model import LlamaForCausalLM
from llama_ds.parallel.groups import ParallelGroups
from llama_ds.parallel.tensor import Sharding
from tests.support.checkpoints import SmallEngine, description
from tests.support.huggingface_tokenizers import byte_level_bpe, write

PROMPT = "The water in the river"
CONTEXT = 48


def config() -> LlamaConfig:
    """Grouped queries; weights large enough that tokens differ and no two are as likely."""
    return LlamaConfig(
        vocab_size=704,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=1,
        max_position_embeddings=CONTEXT,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=1,
        dtype="float32",
    )


def write_model(folder: Path, seed: int = 0) -> Path:
    """A Hugging Face folder."""
    torch.manual_seed(seed)
    LlamaForCausalLM(config()).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def write_tokenizer(folder: Path) -> Path:
    tokenizer_config = {"tokenizer_class": "PreTrainedTokenizerFast"}
    return write(byte_level_bpe(), folder, tokenizer_config=tokenizer_config)


class _Engine(SmallEngine):
    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.module = LlamaForCausalLM(config())
        self.optimizer = self.basic_optimizer = AdamW(self.module.parameters(), lr=0.1)


def save_run(run_dir: Path) -> None:
    """Checkpoints of steps 3 and 5, of different weights; in a process group."""
    tokenizer = write_tokenizer(run_dir / "tokenizer")
    with ParallelGroups.build() as groups:
        for step in (3, 5):
            saver = CheckpointSaver(
                _Engine(seed=step),
                run_dir,
                CheckpointConfig(keep_last=2),
                description(tokenizer, run="test"),
                groups,
                Sharding(1, 1),
            )
            saver.save(step)
            saver.settle()
            saver.close()


def stock_text(folder: Path, prompt: str, seed: int | None = None, **how: Any) -> str:
    """What transformers' own classes write, prompt included; greedily without a seed."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    assert type(model).__module__.startswith("transformers."), f"{type(model)} is not stock"
    if seed is not None:
        set_seed(seed)
    inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
    ids = model.generate(**inputs, do_sample=seed is not None, pad_token_id=1, **how)
    text: str = tokenizer.decode(ids[0], skip_special_tokens=True)
    return text
