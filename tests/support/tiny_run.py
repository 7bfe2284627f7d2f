"""A token store and recipe for training runs of about a second."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

from datasets import Dataset

from data_pipeline.document import content_id
from data_pipeline.executors.local import Processes
from data_pipeline.tokens.store_building import build_store
from data_pipeline.tokens.tokenizer_training import TokenizerConfig, train_tokenizer
from llama_ds.config import (
    CheckpointConfig,
    DataConfig,
    MetricsConfig,
    OptimizerConfig,
    Recipe,
    TrainConfig,
    from_dict,
)
from llama_ds.model_config import ModelConfig
from llama_ds.parallel_config import ZeroConfig
from tests.support.written_documents import write_documents

VOCAB_SIZE = 320
WORDS = [
    "the",
    "a",
    "red",
    "blue",
    "small",
    "big",
    "cat",
    "dog",
    "house",
    "tree",
    "sees",
    "eats",
    "likes",
    "1",
    "23",
    "456",
    "and",
    "or",
    "not",
]


def documents(seed: int, count: int, words: int) -> Dataset:
    """Sentences of a few dozen words: enough structure that a loss can fall."""
    rng = random.Random(seed)
    texts = [
        " ".join(rng.choice(WORDS) for _ in range(rng.randint(words // 2, words)))
        + f" {rng.random()}"
        for _ in range(count)
    ]
    return Dataset.from_dict({"id": [content_id(text) for text in texts], "text": texts})


def make_store(folder: Path) -> Path:
    """A token store of two sources in `folder`."""
    sources = {"books": documents(1, 60, 200), "web": documents(2, 120, 60)}
    documents_of = {
        name: write_documents(folder / "documents" / name, list(texts))
        for name, texts in sources.items()
    }
    config = TokenizerConfig(vocab_size=VOCAB_SIZE)
    train_tokenizer({"books": documents_of["books"]}, folder / "tokenizer", config)
    build_store(
        folder / "store",
        documents_of,
        folder / "tokenizer",
        holdout_share=0.1,
        executor=Processes(1),
    )
    return folder / "store"


def tiny_recipe(store: Path, run_dir: Path, **overrides: Any) -> Recipe:
    """Six steps of eight rows; `overrides` are fields by "section.field"."""
    recipe = Recipe(
        name="test",
        run_dir=run_dir,
        model=ModelConfig(
            hidden_size=32,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=VOCAB_SIZE,
            max_position_embeddings=32,
        ),
        # Clipping acts in every step, so that a wrong gradient norm shows in the weights.
        optimizer=OptimizerConfig(peak_learning_rate=1e-2, warmup_steps=2, max_grad_norm=0.3),
        train=TrainConfig(
            sequence_length=32,
            tokens_per_step=8 * 32,
            max_steps=6,
            micro_batch_size=2,
            dtype="fp32",
            save_policy="linear_outputs",
            loss_chunk_tokens=24,  # does not divide a micro-batch
            eval_every_steps=3,
            eval_rows=5,
        ),
        data=DataConfig(store=store, shares={"books": 0.6, "web": 0.4}, block_rows=10),
        zero=ZeroConfig(stage=1, param_persistence_elements=0),
        checkpoint=CheckpointConfig(every_steps=4),
        metrics=MetricsConfig(tensorboard=False, peak_tflops=0.1),
    )
    # All at once: one after the other, the first could be refused for want of the second.
    tree = dataclasses.asdict(recipe)
    for name, value in overrides.items():
        section, _, field = name.partition(".")
        if field:
            tree[section][field] = value
        else:
            tree[section] = value
    return from_dict(tree)


def run_training(recipe: Recipe) -> tuple[int, int | None]:
    """One rank of a training job: where it ended, and by which signal."""
    from llama_ds.train import train

    result = train(recipe, local_rank=0)
    return result.step, result.signal_number
