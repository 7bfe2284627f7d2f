"""Batch arithmetic: how one optimiser step is cut over ranks and micro-batches."""

from __future__ import annotations

from dataclasses import dataclass

from llama_ds.config import Recipe
from llama_ds.model_config import require


def data_parallel_size(recipe: Recipe, world_size: int) -> int:
    """Data-parallel ranks among `world_size`; ValueError where tp and sp do not divide it."""
    tp, sp = recipe.parallel.tp, recipe.parallel.sp
    require(
        world_size % (tp * sp) == 0,
        f"{world_size} processes must be a multiple of parallel.tp ({tp}) x parallel.sp ({sp})",
    )
    return world_size // (tp * sp)


@dataclass(frozen=True)
class BatchPlan:
    """How one optimiser step is cut over ranks and micro-batches; the product is exact."""

    dp_size: int
    micro_batch_size: int
    grad_accum_steps: int
    sequence_length: int
    num_steps: int

    @property
    def rows_per_step(self) -> int:
        return self.dp_size * self.micro_batch_size * self.grad_accum_steps

    @property
    def tokens_per_step(self) -> int:
        return self.rows_per_step * self.sequence_length


def batch_plan(recipe: Recipe, dp_size: int) -> BatchPlan:
    """Batch arithmetic for `dp_size` data-parallel ranks; ValueError where it does not divide."""
    train = recipe.train
    rows = train.tokens_per_step // train.sequence_length
    rows_per_pass = dp_size * train.micro_batch_size
    require(
        rows % rows_per_pass == 0,
        f"{rows} rows per step (train.tokens_per_step {train.tokens_per_step} / "
        f"train.sequence_length {train.sequence_length}) do not divide over {dp_size} "
        f"data-parallel ranks of train.micro_batch_size {train.micro_batch_size} "
        f"({rows_per_pass} rows at once)",
    )
    return BatchPlan(
        dp_size=dp_size,
        micro_batch_size=train.micro_batch_size,
        grad_accum_steps=rows // rows_per_pass,
        sequence_length=train.sequence_length,
        num_steps=train.num_steps,
    )
