"""Batch arithmetic: micro-batches and accumulation steps that make up the global batch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from llama_ds.batch_schedule import BatchSchedule
from llama_ds.config import Recipe
from llama_ds.model_config import require
from llama_ds.skipped_data import SkippedData


@dataclass(frozen=True)
class BatchPlan:
    """The global batch as data-parallel ranks x micro-batch size x accumulation steps, exactly."""

    dp_size: int
    micro_batch_size: int
    sequence_length: int
    num_steps: int
    batches: BatchSchedule
    skipped: SkippedData = field(default_factory=SkippedData)
    """Steps of the data that no step trains on."""
    start_step: int = 0
    """Since this step the batch has followed `batches`."""
    start_row: int = 0
    """Rows passed by the end of that step, trained on or skipped."""
    start_tokens: int = 0
    """Tokens trained on by then."""

    def tokens_of(self, step: int) -> int:
        """Tokens of `step`, from 0."""
        return self.batches.tokens_at(self.skipped.data_step(step))

    def grad_accum_steps(self, step: int) -> int:
        """Micro-batches of a rank in `step`, from 0."""
        return self.tokens_of(step) // self._tokens_per_pass

    @property
    def most_grad_accum_steps(self) -> int:
        return max(self.batches.sizes) // self._tokens_per_pass

    @property
    def _tokens_per_pass(self) -> int:
        return self.dp_size * self.micro_batch_size * self.sequence_length

    def first_row(self, step: int) -> int:
        """Number of the first row of `step`, both from 0."""
        return self._row_before(self.skipped.data_step(step))

    def num_rows(self, step: int) -> int:
        """Rows passed by the end of `step` steps: the number of the one behind the last."""
        return self._row_before(self._data_steps(step))

    def row_range(self, steps: range) -> tuple[int, int]:
        """First and last row of steps counted from 1."""
        return self.first_row(steps[0] - 1), self.num_rows(steps[-1]) - 1

    def num_tokens(self, step: int) -> int:
        """Tokens trained on by the end of `step` steps."""
        return self.start_tokens + self._trained(step) - self._trained(self.start_step)

    def _data_steps(self, step: int) -> int:
        """Steps of the data passed by the end of `step` steps."""
        return self.skipped.data_step(step - 1) + 1

    def _row_before(self, data_step: int) -> int:
        start = self.batches.tokens_before(self._data_steps(self.start_step))
        tokens = self.batches.tokens_before(data_step) - start
        return self.start_row + tokens // self.sequence_length

    def _trained(self, step: int) -> int:
        """Tokens of `step` steps, had the batch followed `batches` from the start."""
        before, passed = self.batches.tokens_before, self._data_steps(step)
        skipped = self.skipped.before(passed).ranges
        return before(passed) - sum(before(last) - before(first - 1) for first, last in skipped)

    def resumed(self, step: int, rows: int, tokens: int, sequence_length: int) -> BatchPlan:
        """This plan after `step` steps, which have passed `rows` rows of `sequence_length` and
        trained on `tokens` tokens.

        With another sequence length the next row is the one at the same number of tokens.
        """
        start_row = -(-rows * sequence_length // self.sequence_length)
        return dataclasses.replace(self, start_step=step, start_row=start_row, start_tokens=tokens)


def batch_plan(recipe: Recipe, dp_size: int) -> BatchPlan:
    """The plan for `dp_size` data-parallel ranks; ValueError where a batch does not divide."""
    train = recipe.train
    rows_per_pass = dp_size * train.micro_batch_size
    for tokens in train.batches.sizes:
        rows = tokens // train.sequence_length
        name = "tokens_per_step" if tokens == train.tokens_per_step else "batch_schedule"
        require(
            rows % rows_per_pass == 0,
            f"the global batch of {rows} sequences (train.{name} {tokens} / train.sequence_length "
            f"{train.sequence_length}) must be a multiple of {dp_size} data-parallel ranks x "
            f"train.micro_batch_size ({train.micro_batch_size}) = {rows_per_pass} sequences; "
            f"change train.micro_batch_size, train.{name} or the number of processes",
        )
    return BatchPlan(
        dp_size=dp_size,
        micro_batch_size=train.micro_batch_size,
        sequence_length=train.sequence_length,
        num_steps=train.num_steps,
        batches=train.batches,
        skipped=recipe.data.skipped,
    )
