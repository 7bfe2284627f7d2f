"""Communication volume: bytes that a rank sends, for a decoder layer and for ZeRO.

`docs/parallelism.md` shows the regions. Each collective counts with the lower bound of its
communication volume over r ranks: (r - 1) / r of the tensor for all-gather, reduce-scatter and
all-to-all, twice that for all-reduce. A backend may send more.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from llama_ds.config import Dtype
from llama_ds.model_config import ModelConfig
from llama_ds.parallel_config import ParallelConfig
from llama_ds.save_policy import SavePolicy

Sent = Counter[str]
"""Collective -> bytes: all_gather, reduce_scatter, all_reduce (tensor parallelism), all_to_all
(Ulysses)."""


@dataclass(frozen=True)
class LayerTraffic:
    """Bytes that a rank sends for one layer."""

    forward: Sent
    backward: Sent
    """Includes what is sent again because the save policy has not saved it for backward."""


def layer_traffic(
    policy: SavePolicy, model: ModelConfig, parallel: ParallelConfig, tokens: int, width: int
) -> LayerTraffic:
    """Of a fused layer, for `tokens` of whole sequences, in elements of `width` bytes.

    The layer's modules, which recompute nothing, send as much as `keep_all`.
    """
    tp, sp, megatron = parallel.tp, parallel.sp, parallel.sequence_parallel
    inside = tokens // sp
    hidden = inside * model.hidden_size * width
    heads, kv_heads = model.num_attention_heads // tp, max(1, model.num_key_value_heads // tp)
    query = inside * heads * model.head_size * width
    # Ulysses repeats key/value heads until they divide evenly over the ranks.
    key = inside * math.lcm(kv_heads, sp) * model.head_size * width

    whole = _part("all_gather", hidden, tp) if megatron else Counter()
    summed = _part("reduce_scatter", hidden, tp) if megatron else _sum(hidden, tp)
    queries, keys = _part("all_to_all", query, sp), _part("all_to_all", key, sp)
    exchanged = queries + keys + keys + queries  # q, k, v and the attention output

    # The inputs and outputs of both blocks.
    forward = whole + whole + summed + summed + exchanged
    # The same reversed: the gradients of the outputs are all-gathered.
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
    for name in again.keys() - set(policy.saved()):
        backward = backward + again[name]
    return LayerTraffic(forward, backward)


def _weights(model: ModelConfig, parallel: ParallelConfig, width: int) -> Sent:
    """Gradients of replicated weights: of both norms, and of replicated key/value heads."""
    tp, hidden = parallel.tp, model.hidden_size * width
    norms = _sum(2 * hidden, tp) if parallel.sequence_parallel else Counter()
    replicas = max(1, tp // model.num_key_value_heads)
    return norms + _sum(2 * hidden * model.head_size, replicas)


def _part(collective: str, size: int, ranks: int) -> Sent:
    """A collective on a tensor of `size` bytes of which each rank has, or gets, a shard."""
    return +Counter({collective: (ranks - 1) * size // ranks})


def _sum(size: int, ranks: int) -> Sent:
    """All-reduce of a tensor of `size` bytes."""
    return +Counter({"all_reduce": 2 * (ranks - 1) * size // ranks})


@dataclass(frozen=True)
class ShardingTraffic:
    """Bytes per parameter of a rank's shard that it sends for data parallelism, by when it does.

    Times (N - 1) / N over N ranks: an all-gather or reduce-scatter in bf16 counts 2, a
    reduce-scatter in fp32 4, an all-reduce in fp32 8.
    """

    forward: float = 0.0
    """Per micro-batch, under the forward pass."""
    backward: float = 0.0
    first_forward: float = 0.0
    """Once per step, under the first micro-batch."""
    last_backward: float = 0.0
    step: float = 0.0
    """Once per step, with nothing computed meanwhile."""
    shards_optimizer: bool = True


def zero_traffic(stage: int, dtype: Dtype) -> ShardingTraffic:
    """Of a ZeRO stage of this project on DeepSpeed 0.19, as `benchmarks/model/zero_wire.py` counts.

    Gradients are reduced in fp32: all-reduced at stage 0, reduce-scattered or reduced to their
    owners at the others, after the last micro-batch's backward pass (stages 0 and 1) or under
    every micro-batch's (2 and 3). Updated weights are all-gathered at stages 1 and 2, weights at
    stage 3 for each pass.
    """
    weights = 2.0 if dtype == "bf16" else 4.0
    if stage == 0:
        return ShardingTraffic(step=8, shards_optimizer=False)
    if stage == 1:
        return ShardingTraffic(step=4 + weights)
    if stage == 2:
        return ShardingTraffic(backward=4, step=weights)
    return ShardingTraffic(forward=weights, backward=weights + 4)
