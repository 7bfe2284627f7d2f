"""Bytes that a rank sends for one decoder layer and micro-batch, from the recipe's sizes alone.

`docs/parallelism.md` shows the regions. A collective is charged with the least that any algorithm
sends: (r - 1) / r of a tensor that r ranks gather, scatter or exchange, and twice that for a sum. A
backend may send more.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from llama_ds.config import ParallelConfig
from llama_ds.model_config import ModelConfig
from llama_ds.save_policy import SavePolicy

Sent = Counter[str]
"""Collective -> bytes: all_gather, reduce_scatter, all_reduce (tensor parallelism), all_to_all
(Ulysses)."""


@dataclass(frozen=True)
class LayerTraffic:
    """What a rank sends for one layer."""

    forward: Sent
    backward: Sent
    """With what is sent again because the save policy has not kept it."""


def layer_traffic(
    policy: SavePolicy, model: ModelConfig, parallel: ParallelConfig, tokens: int, width: int
) -> LayerTraffic:
    """Of a fused layer, for `tokens` in whole rows, in elements of `width` bytes.

    The layer's modules, which repeat nothing, send what `keep_all` does.
    """
    tp, sp, megatron = parallel.tp, parallel.sp, parallel.sequence_parallel
    inside = tokens // sp
    hidden = inside * model.hidden_size * width
    heads, kv_heads = model.num_attention_heads // tp, max(1, model.num_key_value_heads // tp)
    query = inside * heads * model.head_dim * width
    # Ulysses repeats key/value heads until every rank can have as many.
    key = inside * math.lcm(kv_heads, sp) * model.head_dim * width

    whole = _part("all_gather", hidden, tp) if megatron else Counter()
    summed = _part("reduce_scatter", hidden, tp) if megatron else _sum(hidden, tp)
    queries, keys = _part("all_to_all", query, sp), _part("all_to_all", key, sp)
    exchanged = queries + keys + keys + queries  # q, k, v and attention's result

    # The inputs of both blocks, and their results.
    forward = whole + whole + summed + summed + exchanged
    # The same with the directions changed: gathered are the gradients of the results.
    backward = whole + whole + summed + summed + exchanged + _weights(model, parallel, width)
    again = {
        "attn_in": whole,
        "q": queries,
        "k": keys,
        "v": keys,
        "o_in": queries,
        "mid": summed,
        "mlp_in": whole,
    }
    for name in again.keys() - set(policy.kept()):
        backward = backward + again[name]
    return LayerTraffic(forward, backward)


def _weights(model: ModelConfig, parallel: ParallelConfig, width: int) -> Sent:
    """Gradients that tp ranks share: of both norms, and of key/value heads that several hold."""
    tp, hidden = parallel.tp, model.hidden_size * width
    norms = _sum(2 * hidden, tp) if parallel.sequence_parallel else Counter()
    replicas = max(1, tp // model.num_key_value_heads)
    return norms + _sum(2 * hidden * model.head_dim, replicas)


def _part(collective: str, size: int, ranks: int) -> Sent:
    """A tensor of `size` bytes, of which each rank has, or gets, a part."""
    return +Counter({collective: (ranks - 1) * size // ranks})


def _sum(size: int, ranks: int) -> Sent:
    """A tensor of `size` bytes summed over the ranks, for all of them."""
    return +Counter({"all_reduce": 2 * (ranks - 1) * size // ranks})
