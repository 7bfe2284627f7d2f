"""The global batch size as a function of the step: one size, or another from some step on.

Steps are those of the data, counted as in a run that passes over none (`skipped_data.py`), so that
a step has the same rows in every job.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

from llama_ds.model_config import require


@dataclass(frozen=True)
class BatchSchedule:
    """`changes` are (step, tokens), in order: so many tokens per step from that step on, from 0."""

    changes: tuple[tuple[int, int], ...]

    @staticmethod
    def of(tokens_per_step: int, changes: Mapping[str, int]) -> BatchSchedule:
        """`tokens_per_step` at first, then by `changes`: step, counted from 1 -> tokens per step.

        ValueError naming the field for anything else.
        """
        found = {0: tokens_per_step}
        for text, tokens in changes.items():
            require(
                text.isascii() and text.isdecimal() and int(text) >= 2,
                f"train.batch_schedule ({text}={tokens}): {text} must be the number of a step, 2 "
                "or more; the first step has train.tokens_per_step",
            )
            require(
                tokens > 0,
                f"train.batch_schedule ({text}={tokens}): {tokens} tokens must be positive",
            )
            require(
                int(text) - 1 not in found,
                f"train.batch_schedule has step {int(text)} twice; leave one out",
            )
            found[int(text) - 1] = tokens
        return BatchSchedule(tuple(sorted(found.items())))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Tokens per step, of all steps, each once."""
        return tuple(dict.fromkeys(tokens for _, tokens in self.changes))

    @property
    def common_divisor(self) -> int:
        """The most tokens of which every batch is a multiple."""
        return math.gcd(*self.sizes)

    def tokens_at(self, step: int) -> int:
        """Tokens of `step`, from 0."""
        return next(tokens for first, tokens in reversed(self.changes) if first <= step)

    def tokens_before(self, step: int) -> int:
        """Tokens of the first `step` steps."""
        return sum(count * tokens for count, tokens in self.phases(step))

    def phases(self, num_steps: int) -> list[tuple[int, int]]:
        """(steps, tokens per step) of the first `num_steps` steps, in order."""
        ends = [first for first, _ in self.changes[1:]] + [num_steps]
        return [
            (min(end, num_steps) - first, tokens)
            for (first, tokens), end in zip(self.changes, ends, strict=True)
            if first < num_steps
        ]

    def num_steps(self, tokens: int) -> int:
        """Whole steps that `tokens` tokens are enough for."""
        passed = 0
        for (first, size), (end, _) in itertools.pairwise(self.changes):
            if passed + (end - first) * size > tokens:
                return first + (tokens - passed) // size
            passed += (end - first) * size
        first, size = self.changes[-1]
        return first + (tokens - passed) // size

    def __str__(self) -> str:
        first, *rest = (f"{tokens:,}" for _, tokens in self.changes)
        later = (
            f"{t} from step {s + 1:,} on" for t, (s, _) in zip(rest, self.changes[1:], strict=True)
        )
        return ", ".join([f"{first} tokens per step", *later])
