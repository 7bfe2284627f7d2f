"""Held-out loss by source, per token and per byte of text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llama_ds.json_lines import finite_or_null


@dataclass(frozen=True)
class SourceLoss:
    """Of one source, over all ranks."""

    source: str
    num_rows: int
    loss_sum: float
    """In nats."""
    num_targets: float
    num_bytes: float
    """UTF-8 bytes of the text that the targets are, by the split's mean."""


def held_out_record(losses: Sequence[SourceLoss]) -> dict[str, Any]:
    """The values of an `eval` record: of all rows together, and of each source's.

    Loss is the mean per target in nats. Bits per byte, loss_sum / ln(2) / bytes, do not depend on
    the tokenizer, so that runs with different ones can be compared.
    """
    total = SourceLoss(
        "",
        sum(one.num_rows for one in losses),
        sum(one.loss_sum for one in losses),
        sum(one.num_targets for one in losses),
        sum(one.num_bytes for one in losses),
    )
    by_source = {one.source: finite_or_null(_values(one)) for one in losses}
    return {**_values(total), "sources": by_source}


def _values(of: SourceLoss) -> dict[str, Any]:
    return {
        "loss": of.loss_sum / of.num_targets,
        "bits_per_byte": of.loss_sum / math.log(2) / of.num_bytes if of.num_bytes else math.nan,
        "rows": of.num_rows,
    }
