"""Batch arithmetic: micro-batches and accumulation steps that make up the global batch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from llama_ds.config import Recipe
from llama_ds.model_config import require


@dataclass(frozen=True)
class BatchPlan:
    """The global batch as data-parallel ranks x micro-batch size x accumulation steps, exactly."""

    dp_size: int
    micro_batch_size: int
    grad_accum_steps: int
    sequence_length: int
    num_steps: int
    start_step: int = 0
    """Since this step the batch has had its present size."""
    start_row: int = 0
    """The first row of that step."""

    @property
    def rows_per_step(self) -> int:
        return self.dp_size * self.micro_batch_size * self.grad_accum_steps

    @property
    def tokens_per_step(self) -> int:
        return self.rows_per_step * self.sequence_length

    def first_row(self, step: int) -> int:
        """Number of the first row of `step`, from 0; the number of rows consumed before it."""
        return self.start_row + (step - self.start_step) * self.rows_per_step

    def num_tokens(self, step: int) -> int:
        """Tokens consumed by `step` steps."""
        return self.first_row(step) * self.sequence_length

    def resumed(self, step: int, rows: int, sequence_length: int) -> BatchPlan:
        """This plan behind `rows` rows of `sequence_length` that `step` steps have consumed.

        With another sequence length the first row is the one at the same number of tokens.
        """
        first = -(-rows * sequence_length // self.sequence_length)
        return dataclasses.replace(self, start_step=step, start_row=first)


def batch_plan(recipe: Recipe, dp_size: int) -> BatchPlan:
    """The plan for `dp_size` data-parallel ranks; ValueError where the batch does not divide."""
    train = recipe.train
    rows = train.tokens_per_step // train.sequence_length
    rows_per_pass = dp_size * train.micro_batch_size
    require(
        rows % rows_per_pass == 0,
        f"the global batch of {rows} sequences (train.tokens_per_step {train.tokens_per_step} / "
        f"train.sequence_length {train.sequence_length}) must be a multiple of {dp_size} "
        f"data-parallel ranks x train.micro_batch_size ({train.micro_batch_size}) = "
        f"{rows_per_pass} sequences; change train.micro_batch_size, train.tokens_per_step or the "
        "number of processes",
    )
    return BatchPlan(
        dp_size=dp_size,
        micro_batch_size=train.micro_batch_size,
        grad_accum_steps=rows // rows_per_pass,
        sequence_length=train.sequence_length,
        num_steps=train.num_steps,
    )
