"""The LLaMA-1 family: one function per size, each returning one complete recipe.

Architecture, optimizer and data follow the paper (arXiv 2302.13971, tables 1 and 2, section 2).
What the paper leaves open, and depends on the GPUs, is in one table below (`PLACEMENTS`): number of
GPUs, tensor parallelism, ZeRO stage, micro-batch size and save policy (recomputation).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llama_ds.config import CheckpointConfig, DataConfig, OptimizerConfig, Recipe, TrainConfig
from llama_ds.model_config import ModelConfig
from llama_ds.parallel_config import ParallelConfig, ZeroConfig
from llama_ds.save_policy import SavePolicyName

Cluster = Literal["a100-80gb", "h100-80gb", "h200-141gb"]

LLAMA1_SHARES = {
    "common_crawl": 0.67,
    "c4": 0.15,
    "github": 0.045,
    "wikipedia": 0.045,
    "books": 0.045,
    "arxiv": 0.025,
    "stack_exchange": 0.02,
}
"""Share of each source in the training tokens (paper, table 1)."""
LLAMA1_EPOCHS = {
    "common_crawl": 1.10,
    "c4": 1.06,
    "github": 0.64,
    "wikipedia": 2.45,
    "books": 2.23,
    "arxiv": 1.06,
    "stack_exchange": 1.03,
}
"""Epochs of each source in `LLAMA1_TOKENS` tokens (paper, table 1)."""
LLAMA1_TOKENS = 1_400_000_000_000
"""Training tokens of the 33B and 65B models."""
PAPER_TOKENS_PER_SECOND = {
    "llama_7b": 3_370,
    "llama_13b": 2_055,
    "llama_33b": 733,
    "llama_65b": 380,
}
"""Tokens per second per A100-80GB. 65B: stated in the paper (section 2.4). The others follow from
its GPU-hours (table 15) and training tokens."""


@dataclass(frozen=True)
class Placement:
    """Parallelism and memory settings of a model on a cluster."""

    num_gpus: int
    tp: int
    zero_stage: int
    micro_batch_size: int
    save_policy: SavePolicyName


# Found by `python -m llama_ds.planning.search`, which predicts the speed of every layout that fits:
# predictions, not measurements. Each is within 5 % of the fastest (`tests/recipes`); of those close
# to it the one with the lower ZeRO stage, the smaller tp and more free memory. All save the outputs
# of linear layers as the paper does: no matmul is recomputed, and saving everything would be 1 to
# 2 % faster for twice the memory.
# 7B: every GPU holds all weights (ZeRO-2), which leaves no communication in the forward pass.
# 13B: tp 2 allows micro-batches twice as large for the same activations per GPU. ZeRO gathers or
# reduces half as many bytes, once per micro-batch, under twice the computation; tp's own
# collectives run over NVLink and under matmuls.
# 33B by 4, which divides its 52 heads, and 65B by 8 for the same reasons. With ZeRO-3 a whole batch
# of a GPU fits into one micro-batch, so that weights are gathered and gradients reduced once per
# step, under computation; ZeRO-1 would send as much after the last backward pass, with nothing
# computed meanwhile (a third of the step at 65B).
# Fewer of the faster GPUs are used, so that each has more rows per step.
PLACEMENTS: dict[str, dict[Cluster, Placement]] = {
    "llama_7b": {
        "a100-80gb": Placement(256, 1, 2, 8, "linear_outputs"),
        "h100-80gb": Placement(128, 1, 2, 8, "linear_outputs"),
        "h200-141gb": Placement(128, 1, 2, 16, "linear_outputs"),
    },
    "llama_13b": {
        "a100-80gb": Placement(512, 2, 3, 8, "linear_outputs"),
        "h100-80gb": Placement(256, 2, 2, 8, "linear_outputs"),
        "h200-141gb": Placement(256, 2, 3, 16, "linear_outputs"),
    },
    "llama_33b": {
        "a100-80gb": Placement(1024, 4, 3, 8, "linear_outputs"),
        "h100-80gb": Placement(512, 4, 2, 8, "linear_outputs"),
        "h200-141gb": Placement(512, 4, 3, 16, "linear_outputs"),
    },
    "llama_65b": {
        "a100-80gb": Placement(2048, 8, 3, 8, "linear_outputs"),
        "h100-80gb": Placement(1024, 8, 3, 16, "linear_outputs"),
        "h200-141gb": Placement(512, 8, 3, 16, "linear_outputs"),
    },
}


def intended_world_size(recipe: Recipe, cluster: Cluster) -> int:
    """Number of GPUs that the recipe is tuned for; ValueError where none is known."""
    if recipe.name == "llama_tiny":
        return 2
    if recipe.name not in PLACEMENTS:
        raise ValueError(
            f"no number of GPUs is known for the recipe {recipe.name!r}; give --world-size"
        )
    return PLACEMENTS[recipe.name][cluster].num_gpus


def llama_tiny(cluster: Cluster = "a100-80gb") -> Recipe:
    """LLaMA with 1.3 M parameters, for two processes on a CPU; the quickstart's model.

    Of the sizes that train in a minute on two cores, one with few held-out bits per byte
    (`benchmarks/model/quickstart_sizes.py`): small, and trained for long.

    It fits on any machine, so `cluster` affects only the memory check of a dry run.
    """
    del cluster
    return Recipe(
        name="llama_tiny",
        run_dir=Path("runs/llama_tiny"),
        model=ModelConfig(
            hidden_size=128,
            intermediate_size=352,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            vocab_size=2_048,
            max_position_embeddings=256,
        ),
        optimizer=OptimizerConfig(peak_learning_rate=6e-3, warmup_steps=40),
        train=TrainConfig(
            sequence_length=256,
            tokens_per_step=2_048,
            max_steps=800,
            micro_batch_size=4,
            dtype="fp32",
            save_policy="linear_outputs",
            log_every_steps=20,
            eval_every_steps=100,
            eval_rows=64,
        ),
        data=DataConfig(store=Path("runs/quickstart/store")),
        zero=ZeroConfig(stage=1),
        checkpoint=CheckpointConfig(every_steps=200),
    )


def llama_7b(cluster: Cluster = "a100-80gb") -> Recipe:
    """LLaMA-7B: 6.7 B parameters, 1.0 T tokens.

    For 256 A100-80GB, 128 H100 or 128 H200.
    """
    return _llama1(
        "llama_7b",
        cluster,
        hidden_size=4_096,
        num_attention_heads=32,
        num_hidden_layers=32,
        intermediate_size=11_008,
        peak_learning_rate=3.0e-4,
        train_tokens=1_000_000_000_000,
    )


def llama_13b(cluster: Cluster = "a100-80gb") -> Recipe:
    """LLaMA-13B: 13.0 B parameters, 1.0 T tokens.

    For 512 A100-80GB, 256 H100 or 256 H200.
    """
    return _llama1(
        "llama_13b",
        cluster,
        hidden_size=5_120,
        num_attention_heads=40,
        num_hidden_layers=40,
        intermediate_size=13_824,
        peak_learning_rate=3.0e-4,
        train_tokens=1_000_000_000_000,
    )


def llama_33b(cluster: Cluster = "a100-80gb") -> Recipe:
    """LLaMA-33B: 32.5 B parameters, 1.4 T tokens.

    For 1024 A100-80GB, 512 H100 or 512 H200.
    """
    return _llama1(
        "llama_33b",
        cluster,
        hidden_size=6_656,
        num_attention_heads=52,
        num_hidden_layers=60,
        intermediate_size=17_920,
        peak_learning_rate=1.5e-4,
        train_tokens=LLAMA1_TOKENS,
    )


def llama_65b(cluster: Cluster = "a100-80gb") -> Recipe:
    """LLaMA-65B: 65.2 B parameters, 1.4 T tokens.

    For 2048 A100-80GB (the paper's cluster), 1024 H100 or 512 H200.
    """
    return _llama1(
        "llama_65b",
        cluster,
        hidden_size=8_192,
        num_attention_heads=64,
        num_hidden_layers=80,
        intermediate_size=22_016,
        peak_learning_rate=1.5e-4,
        train_tokens=LLAMA1_TOKENS,
    )


def _llama1(
    name: str,
    cluster: Cluster,
    *,
    hidden_size: int,
    num_attention_heads: int,
    num_hidden_layers: int,
    intermediate_size: int,
    peak_learning_rate: float,
    train_tokens: int,
) -> Recipe:
    """Settings common to the four models of the paper."""
    placement = PLACEMENTS[name][cluster]
    return Recipe(
        name=name,
        run_dir=Path("runs") / name,
        model=ModelConfig(
            hidden_size=hidden_size,
            intermediate_size=intermediate_size,
            num_hidden_layers=num_hidden_layers,
            num_attention_heads=num_attention_heads,
            num_key_value_heads=num_attention_heads,
            vocab_size=32_000,
            max_position_embeddings=2_048,
            # One value for the family. The 65B weights that were published later carry 1e-5.
            rms_norm_eps=1e-6,
            rope_theta=10_000.0,
        ),
        optimizer=OptimizerConfig(
            peak_learning_rate=peak_learning_rate,
            min_learning_rate_ratio=0.1,
            warmup_steps=2_000,
            beta1=0.9,
            beta2=0.95,
            weight_decay=0.1,
            max_grad_norm=1.0,
        ),
        train=TrainConfig(
            sequence_length=2_048,
            tokens_per_step=4 * 1024 * 1024,
            train_tokens=train_tokens,
            micro_batch_size=placement.micro_batch_size,
            dtype="bf16",
            save_policy=placement.save_policy,
        ),
        data=DataConfig(store=Path("runs/llama1/store"), shares=LLAMA1_SHARES),
        parallel=ParallelConfig(tp=placement.tp, sequence_parallel=True),
        zero=ZeroConfig(stage=placement.zero_stage),
    )
