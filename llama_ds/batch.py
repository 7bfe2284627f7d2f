"""Batch arithmetic: micro-batches and accumulation steps that make up the global batch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from llama_ds.config import Recipe
from llama_ds.model_config import require
from llama_ds.skipped_data import SkippedData


@dataclass(frozen=True)
class BatchPlan:
    """The global batch as data-parallel ranks x micro-batch size x accumulation steps, exactly."""

    dp_size: int
    micro_batch_size: int
    grad_accum_steps: int
    sequence_length: int
    num_steps: int
    skipped: SkippedData = field(default_factory=SkippedData)
    """Steps of the data that no step trains on."""
    start_step: int = 0
    """Since this step the batch has had its present size."""
    start_row: int = 0
    """Rows passed by the end of that step, trained on or skipped."""
    start_tokens: int = 0
    """Tokens trained on by then."""

    @property
    def rows_per_step(self) -> int:
        return self.dp_size * self.micro_batch_size * self.grad_accum_steps

    @property
    def tokens_per_step(self) -> int:
        return self.rows_per_step * self.sequence_length

    def first_row(self, step: int) -> int:
        """Number of the first row of `step`, both from 0."""
        return self.num_rows(step) + self._skipped_before(step) * self.rows_per_step

    def num_rows(self, step: int) -> int:
        """Rows passed by the end of `step` steps: the number of the one behind the last."""
        data_steps = self.skipped.data_step(step - 1) - self.skipped.data_step(self.start_step - 1)
        return self.start_row + data_steps * self.rows_per_step

    def row_range(self, steps: range) -> tuple[int, int]:
        """First and last row of steps counted from 1."""
        return self.first_row(steps[0] - 1), self.num_rows(steps[-1]) - 1

    def num_tokens(self, step: int) -> int:
        """Tokens trained on by the end of `step` steps."""
        return self.start_tokens + (step - self.start_step) * self.tokens_per_step

    def _skipped_before(self, step: int) -> int:
        """Steps of the data that lie between `step`'s and those of the step before."""
        return self.skipped.data_step(step) - self.skipped.data_step(step - 1) - 1

    def resumed(self, step: int, rows: int, tokens: int, sequence_length: int) -> BatchPlan:
        """This plan after `step` steps, which have passed `rows` rows of `sequence_length` and
        trained on `tokens` tokens.

        With another sequence length the next row is the one at the same number of tokens.
        """
        start_row = -(-rows * sequence_length // self.sequence_length)
        return dataclasses.replace(self, start_step=step, start_row=start_row, start_tokens=tokens)


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
        skipped=recipe.data.skipped,
    )
