"""Seconds of an optimizer step, predicted from sizes, layout, save policy and hardware.

Matmuls, attention and elementwise functions cost what `roofline.py` says; collectives the bytes of
`traffic.py`, less what runs under computation. The fitted constants (`Constants` there, and each
GPU's matmul efficiency) are one set for all models and layouts, fitted to published training speeds
by `benchmarks/model/fit_step_time.py`; `check.py` compares predictions with published speeds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from llama_ds.model_config import ModelConfig
from llama_ds.parallel_config import ParallelConfig
from llama_ds.planning.hardware import Cluster
from llama_ds.planning.roofline import CONSTANTS, Constants, Roofline
from llama_ds.planning.traffic import ShardingTraffic, layer_traffic
from llama_ds.save_policy import SavePolicy

WIDTH = 2
"""Bytes of an element in bf16; speeds are predicted for bf16 only."""
BACKWARD_ATTENTION = 2.5
"""FLOPs of attention's backward pass over its forward pass (five matmuls for two)."""
OPTIMIZER_BYTES = 34
"""Bytes read and written per parameter by AdamW: gradient, master weight and two moments in fp32
(28), norm and clipping of the gradient (4), the new bf16 weight (2)."""
LOGIT_BYTES = 14
"""Bytes read and written per logit by the fused head and cross-entropy, forward and backward."""


@dataclass(frozen=True)
class Workload:
    """What one optimizer step computes, and how ranks share it."""

    model: ModelConfig
    sequence_length: int
    rows_per_step: int
    micro_batch_size: int
    world_size: int
    policy: SavePolicy
    sharding: ShardingTraffic
    parallel: ParallelConfig
    attention: str = "flash"
    """Kernel: flash, cudnn, or unfused (scores are written to memory)."""
    fused_elementwise: bool = True
    """Norms, rotary embedding, the MLP's activation and the loss are one kernel each."""
    tp_overlapped: bool = True
    mlp_matrices: int = 3
    """3: gated, as LLaMA's; 2: up and down."""
    pipeline_stages: int = 1
    """Pipeline and context parallelism: other programs' layouts, which this one does not have."""
    virtual_stages: int = 1
    context_parallel: int = 1
    repeated_forwards: int = 0
    """Whole forward passes of the layers that are repeated for the backward pass, beyond the
    policy."""

    @property
    def replica_size(self) -> int:
        """Ranks that train on the same sequences."""
        return self.parallel.tp * self.parallel.sp * self.context_parallel * self.pipeline_stages

    @property
    def dp_size(self) -> int:
        return self.world_size // self.replica_size

    @property
    def micro_batches(self) -> int:
        return self.rows_per_step // (self.dp_size * self.micro_batch_size)

    @property
    def sharding_ranks(self) -> int:
        """Ranks that hold the same weight shards, over which ZeRO's collectives go."""
        return self.world_size // (self.parallel.tp * self.pipeline_stages)

    @property
    def layers_per_rank(self) -> int:
        chunks = self.pipeline_stages * self.virtual_stages
        return math.ceil(self.model.num_hidden_layers / chunks) * self.virtual_stages

    @property
    def tokens(self) -> int:
        """Of a micro-batch, on a rank within the blocks."""
        sequence = self.sequence_length // (self.parallel.sp * self.context_parallel)
        return self.micro_batch_size * sequence

    def flops_per_token(self, *, causal: bool = False) -> float:
        """As `ModelConfig.flops_per_token`, also for an MLP of two matrices."""
        model = self.model
        mlp = (self.mlp_matrices - 3) * model.hidden_size * model.intermediate_size
        whole = model.flops_per_token(self.sequence_length, causal=causal)
        return whole + 6 * mlp * model.num_hidden_layers

    @property
    def rank_parameters(self) -> int:
        """Of the rank's shard of the model, embedding or head included."""
        model = self.model
        mlp = (self.mlp_matrices - 3) * model.hidden_size * model.intermediate_size
        layer = (model.num_layer_parameters + mlp) * self.layers_per_rank
        ends = model.vocab_size * model.hidden_size * (2 if self.pipeline_stages == 1 else 1)
        return (layer + ends) // self.parallel.tp


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimizer step by term."""

    matmuls: float
    attention: float
    elementwise: float
    recomputation: float
    head: float
    tp_collectives: float
    sp_collectives: float
    zero_collectives: float
    """ZeRO's, as far as not hidden under computation."""
    optimizer: float
    pipeline_bubble: float
    scale: float
    """Stragglers and jitter of many GPUs."""

    @property
    def total(self) -> float:
        return sum(self.terms().values())

    def terms(self) -> dict[str, float]:
        """Seconds by the name of each term."""
        return {field.name.replace("_", " "): getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class _Pass:
    """Seconds of a layer in one direction."""

    matmuls: float = 0.0
    attention: float = 0.0
    elementwise: float = 0.0

    @property
    def total(self) -> float:
        return self.matmuls + self.attention + self.elementwise


def predict(workload: Workload, cluster: Cluster, constants: Constants = CONSTANTS) -> StepTime:
    """Duration of a step of `workload` on `cluster`; attention kernels that the cluster's GPU has
    no rate of count as its flash attention."""
    roofline = Roofline(cluster, constants)
    forward, backward, repeated = (
        _forward(workload, roofline),
        _backward(workload, roofline),
        _repeated(workload, roofline),
    )
    layer = forward.total + backward.total + repeated
    tp, sp = _layer_collectives(workload, roofline, layer)
    head = _head(workload, roofline)
    layers, count = workload.layers_per_rank, workload.micro_batches
    forward_pass = layers * forward.total + head / 3
    backward_pass = layers * (backward.total + repeated) + 2 * head / 3
    zero = _sharding(workload, roofline, forward_pass, backward_pass)
    micro = forward_pass + backward_pass + layers * (tp + sp)
    bubble = (workload.pipeline_stages - 1) / workload.virtual_stages * micro
    optimizer = _optimizer(workload, roofline)
    doublings = max(0.0, math.log2(workload.world_size / cluster.gpus_per_node))
    parts = {
        "matmuls": count * layers * (forward.matmuls + backward.matmuls),
        "attention": count * layers * (forward.attention + backward.attention),
        "elementwise": count * layers * (forward.elementwise + backward.elementwise),
        "recomputation": count * layers * repeated,
        "head": count * head,
        "tp_collectives": count * layers * tp,
        "sp_collectives": count * layers * sp,
        "zero_collectives": zero,
        "optimizer": optimizer,
        "pipeline_bubble": bubble,
    }
    return StepTime(**parts, scale=constants.scale * doublings * sum(parts.values()))


# -- a layer --------------------------------------------------------------------------------------


def _matmuls(workload: Workload) -> dict[str, tuple[int, int]]:
    """Activation that a matmul makes -> (columns of the output, inner dimension) on a rank."""
    model, tp = workload.model, workload.parallel.tp
    query = model.num_attention_heads * model.head_size // tp
    key = max(1, model.num_key_value_heads // tp) * model.head_size
    d, f = model.hidden_size, model.intermediate_size // tp
    shapes = {
        "q": (query, d),
        "k": (key, d),
        "v": (key, d),
        "mid": (d, query),
        "gate": (f, d),
        "up": (f, d),
        "out": (d, f),
    }
    if workload.mlp_matrices == 2:
        del shapes["gate"]
    return shapes


def _matmul_seconds(workload: Workload, roofline: Roofline, names: set[str]) -> float:
    return sum(
        roofline.matmul(workload.tokens, n, k)
        for name, (n, k) in _matmuls(workload).items()
        if name in names
    )


def _attention_seconds(workload: Workload, roofline: Roofline) -> float:
    """Forward pass: scores and values of the causal half."""
    model, length = workload.model, workload.sequence_length
    heads = model.num_attention_heads // (workload.parallel.tp)
    tokens = workload.tokens
    flops = 2 * tokens * length * heads * model.head_size
    if workload.attention == "unfused":
        # Whole scores by batched matmuls, and four passes over them: mask, softmax, dropout.
        scores = tokens * length * heads
        rate = roofline.cluster.gpu.matmul_efficiency * roofline.cluster.gpu.peak_flops
        rate *= model.head_size / (model.head_size + roofline.constants.half_depth)
        return 2 * flops / rate + roofline.memory(8 * scores * WIDTH)
    rates = roofline.cluster.gpu.attention
    rate = rates.get(workload.attention, rates["flash"]).at(length)
    return flops / rate


def _elementwise_bytes(workload: Workload) -> float:
    """Forward pass with one kernel per function: two norms and residual sums outside the blocks,
    rotary embedding and the MLP's activation within."""
    model, tp = workload.model, workload.parallel.tp
    outside = workload.tokens // (tp if workload.parallel.sequence_parallel else 1)
    rotary = 2 * (model.num_attention_heads + model.num_key_value_heads) * model.head_size
    inside = (rotary + workload.mlp_matrices * model.intermediate_size) / tp
    return WIDTH * (outside * 10 * model.hidden_size + workload.tokens * inside)


def _forward(workload: Workload, roofline: Roofline) -> _Pass:
    return _Pass(
        _matmul_seconds(workload, roofline, set(_matmuls(workload))),
        _attention_seconds(workload, roofline),
        roofline.elementwise(_elementwise_bytes(workload), fused=workload.fused_elementwise),
    )


def _backward(workload: Workload, roofline: Roofline) -> _Pass:
    """Each matmul twice, for its input's and its weight's gradient."""
    tokens = workload.tokens
    matmuls = sum(
        roofline.matmul(tokens, k, n) + roofline.matmul(n, k, tokens)
        for n, k in _matmuls(workload).values()
    )
    return _Pass(
        matmuls,
        BACKWARD_ATTENTION * _attention_seconds(workload, roofline),
        roofline.elementwise(2 * _elementwise_bytes(workload), fused=workload.fused_elementwise),
    )


def _repeated(workload: Workload, roofline: Roofline) -> float:
    """What the policy has not saved is computed again: matmuls and attention by name, and the
    elementwise functions wherever anything is."""
    policy = workload.policy
    saved = set(policy.saved()) | set(policy.offloaded())
    names = {"q", "k", "v", "mid", "gate", "up"} - saved
    seconds = _matmul_seconds(workload, roofline, names)
    if "attn_out" not in saved:
        seconds += _attention_seconds(workload, roofline)
    if "product" not in saved:
        seconds += roofline.elementwise(
            _elementwise_bytes(workload) / 2, fused=workload.fused_elementwise
        )
    return seconds + workload.repeated_forwards * _forward(workload, roofline).total


# -- around the layers ----------------------------------------------------------------------------


def _head(workload: Workload, roofline: Roofline) -> float:
    """Output head and cross-entropy, forward and backward; of the last pipeline stage."""
    model, tokens = workload.model, workload.tokens
    rows, d = model.vocab_size // workload.parallel.tp, model.hidden_size
    matmuls = (
        roofline.matmul(tokens, rows, d)
        + roofline.matmul(tokens, d, rows)
        + roofline.matmul(rows, d, tokens)
    )
    logits = roofline.elementwise(LOGIT_BYTES * tokens * rows, fused=workload.fused_elementwise)
    return (matmuls + logits) / workload.pipeline_stages


def _optimizer(workload: Workload, roofline: Roofline) -> float:
    shards = workload.sharding_ranks if workload.sharding.shards_optimizer else 1
    size = OPTIMIZER_BYTES * workload.rank_parameters / shards
    return roofline.memory(size) + roofline.constants.optimizer_latency


# -- collectives ----------------------------------------------------------------------------------


def _layer_collectives(
    workload: Workload, roofline: Roofline, computation: float
) -> tuple[float, float]:
    """(tensor parallelism's, sequence or context parallelism's) of a layer, forward and backward,
    less what runs under its computation."""
    parallel, per_node = workload.parallel, roofline.cluster.gpus_per_node
    traffic = layer_traffic(
        workload.policy, workload.model, parallel, workload.tokens * parallel.sp, WIDTH
    )
    sent = traffic.forward + traffic.backward
    to_heads = sent.pop("all_to_all", 0)
    tp = roofline.collective(sent.total(), parallel.tp, per_node, calls=10)
    if workload.tp_overlapped:
        tp = roofline.exposed(tp, computation)
    tp_ranks_per_node = max(1, per_node // parallel.tp)
    sp = roofline.collective(to_heads, parallel.sp, tp_ranks_per_node, calls=8)
    ring = workload.context_parallel
    # Keys and values go around the ring, and with their gradients back.
    keys = 2 * workload.model.num_key_value_heads * workload.model.head_size / parallel.tp
    around = 3 * (ring - 1) * workload.tokens * keys * WIDTH
    context = roofline.collective(around, ring, tp_ranks_per_node, calls=3 * (ring - 1))
    return tp, sp + roofline.exposed(context, computation)


def _sharding(
    workload: Workload, roofline: Roofline, forward_pass: float, backward_pass: float
) -> float:
    """ZeRO's collectives of a whole step, as far as they delay it."""
    ranks, parallel = workload.sharding_ranks, workload.parallel
    per_node = max(1, roofline.cluster.gpus_per_node // parallel.tp)
    share = (ranks - 1) / ranks
    layers = workload.layers_per_rank

    def seconds(bytes_per_parameter: float, calls: int) -> float:
        sent = bytes_per_parameter * workload.rank_parameters * share
        return roofline.collective(sent, ranks, per_node, calls) if sent else 0.0

    sharding, count, constants = workload.sharding, workload.micro_batches, roofline.constants
    total = seconds(sharding.step, 1)
    for bytes_per_parameter, times, computation in (
        (sharding.forward, count, forward_pass),
        (sharding.backward, count, backward_pass),
        (sharding.first_forward, 1, forward_pass),
        (sharding.last_backward, 1, backward_pass),
    ):
        communication = seconds(bytes_per_parameter, layers)
        copies = 2 * constants.gather_copies * bytes_per_parameter * workload.rank_parameters
        total += times * roofline.exposed(communication, computation)
        total += times * roofline.memory(copies) if ranks > 1 else 0.0
    return total
