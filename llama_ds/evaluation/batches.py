"""Requests in batches of like length: the same ones for every number of ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MAX_ROWS = 256
CPU_TOKENS = 2048
"""Of a batch, where larger ones are no faster."""
GPU_TOKENS = 65536
FREE_SHARE = 0.7
"""Of the free memory; the rest is for what the estimate does not know."""


@dataclass(frozen=True)
class Request:
    """One call of the model."""

    key: str
    """Of what is asked and with which draw, the same in every process."""
    length: int
    """Tokens of the row, those to be written included."""
    payload: Any


def in_batches(requests: Sequence[Request], batch_tokens: int) -> list[list[Request]]:
    """Batches of at most `batch_tokens` with padding, the longest rows first; one row at least."""
    batches: list[list[Request]] = []
    # The longest first: what does not fit into memory is known at once. Ties by key, so that the
    # order of the tasks changes nothing.
    for request in sorted(requests, key=lambda one: (-one.length, one.key)):
        last = batches[-1] if batches else []
        fits = last and last[0].length * (len(last) + 1) <= batch_tokens
        if fits and len(last) < MAX_ROWS:
            last.append(request)
        else:
            batches.append([request])
    return batches


def tokens_that_fit(
    free_bytes: int | None, config: Any, itemsize: int, tp_size: int, *, is_cpu: bool
) -> int:
    """Tokens of a batch for the memory that is free beside the weights.

    A token's largest tensors are its logits, as the model gives them and as fp32 log-likelihoods
    with one more copy on the way; then keys and values of all layers, and a layer's activations.
    """
    if is_cpu:
        return CPU_TOKENS
    if free_bytes is None:
        return CPU_TOKENS * 4
    heads = config.num_attention_heads
    kv_width = (config.num_key_value_heads or heads) * (config.hidden_size // heads)
    per_token: int = config.vocab_size * (itemsize + 2 * 4)
    per_token += 2 * config.num_hidden_layers * kv_width * itemsize // tp_size
    per_token += (6 * config.hidden_size + 3 * config.intermediate_size // tp_size) * itemsize
    return max(256, min(GPU_TOKENS, int(FREE_SHARE * free_bytes) // per_token))
