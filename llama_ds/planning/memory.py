"""Memory estimate of a training step from a recipe: weights, optimizer states, activation memory.

It counts tensors that live for a whole step or for the forward and backward pass. It leaves out
what has no formula: the allocator's rounding and fragmentation, gradients of the layer whose
backward pass is running, the CUDA context and NCCL's buffers. Recipes leave 15 % of the device free
for these.

All parts are added up, though buckets of stages 0 and 1 are used when the activations are gone. So
on small models the estimate is too high at these, by up to 30 %, and by more where a bucket is
larger than the model; for ZeRO-3 in fp32 it is too low, by up to 19 %
(`benchmarks/model/memory.py`).

Tensor parallelism shards matrices, ZeRO shards states over the N ranks that hold the same weight
shards (dp x sp), and sequence parallelism shards tokens; all results are bytes per rank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from llama_ds.config import Recipe
from llama_ds.model_config import ModelConfig
from llama_ds.parallel_config import ParallelConfig
from llama_ds.save_policy import PRESETS, SavePolicy

ZERO3_LIVE_ELEMENTS = 1_000_000_000
"""Parameters that ZeRO-3 keeps all-gathered at once (DeepSpeed's stage3_max_live_parameters)."""

STAGE_0_BUCKET = 500_000_000
"""Elements per all-reduce of stage 0 (DeepSpeed's MEMORY_OPT_ALLREDUCE_SIZE), not a setting."""
USABLE_SHARE = 0.93
"""Share of the device's memory that an estimate may take: fragments, the CUDA context and NCCL's
buffers need the rest."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one device."""

    weights: int
    gradients: int
    optimizer_states: int
    buffers: int
    """DeepSpeed's communication buckets, and the weights that ZeRO-3 has all-gathered."""
    activations: int
    loss: int
    """One chunk of logits, and the gradients that the fused loss saves for backward."""

    @property
    def total(self) -> int:
        return sum(self.parts().values())

    def parts(self) -> dict[str, int]:
        """Bytes by the name of each part."""
        return {
            "weights": self.weights,
            "gradients": self.gradients,
            "optimizer states": self.optimizer_states,
            "communication buffers": self.buffers,
            "activations": self.activations,
            "loss": self.loss,
        }


def estimate_memory(recipe: Recipe, dp_size: int) -> MemoryEstimate:
    """Memory of one rank that trains `recipe` with data-parallel degree `dp_size`."""
    num_parameters = rank_parameters(recipe)
    replicas = dp_size * recipe.parallel.sp
    weight_bytes, gradient_bytes, optimizer_bytes = state_bytes_per_parameter(recipe, replicas)
    return MemoryEstimate(
        weights=round(num_parameters * weight_bytes),
        gradients=round(num_parameters * gradient_bytes),
        optimizer_states=round(num_parameters * optimizer_bytes),
        buffers=_buffer_bytes(recipe, replicas),
        activations=_activation_bytes(recipe),
        loss=_loss_bytes(recipe),
    )


def rank_parameters(recipe: Recipe) -> int:
    """Parameters of a tp rank: its shard of every matrix with rows that pad the vocabulary, all
    norms and replicated biases."""
    model, tp = recipe.model, recipe.parallel.tp
    layer = model.layer_parameters(
        model.num_attention_heads // tp,
        _rank_kv_heads(model, recipe.parallel),
        model.intermediate_size // tp,
    )
    embedding = math.ceil(model.vocab_size / tp) * model.hidden_size
    return model.num_hidden_layers * layer + model.hidden_size + model.num_embeddings * embedding


def _rank_kv_heads(model: ModelConfig, parallel: ParallelConfig) -> int:
    return max(1, model.num_key_value_heads // parallel.tp)


def state_bytes_per_parameter(recipe: Recipe, replicas: int) -> tuple[float, float, float]:
    """(weights, gradients, optimizer states), bytes per parameter of a rank's model shard.

    The scheme is ZeRO's (arXiv 1910.02054, section 5): stage 1 divides the optimizer states by N,
    stage 2 also the gradients, stage 3 also the weights. The bytes are those of the configuration
    in `deepspeed_config.py`:

    - optimizer states: 12, an fp32 master copy of the weight and Adam's two moments. Without ZeRO
      an fp32 weight is its own master, which leaves 8; ZeRO's flat partition is always a copy.
    - gradients: 4, accumulated in fp32. At stage 0 bf16 adds the 2 bytes of the micro-batch's own
      gradient. Stage 1 frees that once it is added (`bf16.immediate_grad_update`), and at stages 2
      and 3 it lives in the communication buffers.
    """
    stage, bf16 = recipe.zero.stage, recipe.train.dtype == "bf16"
    weights = 2.0 if bf16 else 4.0
    gradients = 6.0 if bf16 and stage == 0 else 4.0
    optimizer = 8.0 if stage == 0 and not bf16 else 12.0
    if stage >= 1:
        optimizer /= replicas
    if stage >= 2:
        gradients /= replicas
    if stage >= 3:
        weights /= replicas
    return weights, gradients, optimizer


def _buffer_bytes(recipe: Recipe, replicas: int) -> int:
    """Buckets in which gradients are reduced, and weights that ZeRO-3 all-gathers.

    DeepSpeed allocates a stage's whole bucket, also where the model is smaller. Stage 2, and stage
    1 in fp32, fill one while the other is reduced in fp32; stage 3 has one bucket in fp32. Stage 0
    copies gradients into a bucket of `STAGE_0_BUCKET`, and that into fp32. Stage 1 in bf16
    reduce-scatters the sums in place, into a partition (`gradient_reduction.py`).
    """
    width, num_parameters, stage = _width(recipe), rank_parameters(recipe), recipe.zero.stage
    bucket = recipe.zero.reduce_bucket_elements
    if stage == 3:
        return bucket * (width + 4) + min(ZERO3_LIVE_ELEMENTS, num_parameters) * width
    reduced = min(bucket, num_parameters) * 4
    if stage == 2 or (stage == 1 and width == 4):
        return bucket * 2 * width + reduced
    if stage == 1:
        return num_parameters * 4 // replicas
    return min(STAGE_0_BUCKET, num_parameters) * (width + 4 if width < 4 else width)


def _activation_bytes(recipe: Recipe) -> int:
    """Activation memory at its peak.

    Each layer has what its policy saves for backward; the layer whose backward pass is running also
    has its recomputed activations, the MLP's wide ones for one tile of the sequence at a time.
    Offloaded activations are on the device for one layer more, being copied (`layer/offload.py`).
    Groups of `activation_checkpointing` save their input only.
    """
    model, train, parallel = recipe.model, recipe.train, recipe.parallel
    tokens, width = train.micro_batch_size * train.sequence_length, _width(recipe)
    kept = activation_bytes(train.resolved_save_policy, model, parallel, tokens, width)
    everything = activation_bytes(PRESETS["keep_all"], model, parallel, tokens, width)
    sizes = _layer_elements(model, parallel, tokens)
    wide = sum(sizes[name] for name in ("gate", "up", "product")) * width
    if model.is_fusable:
        everything -= wide - wide // train.mlp_tiles
    outside = _tokens_outside(parallel, tokens) * model.hidden_size
    # The final norm saves its input in fp32, and its normalized input in the model's dtype.
    final_norm = outside * (4 + width)
    running, inputs = model.num_hidden_layers, 0
    settings = recipe.activation_checkpointing
    if settings.number_checkpoints:
        # The inputs of the groups, and the layers of the group that is being recomputed.
        running //= settings.number_checkpoints
        parts = parallel.tp if settings.partition_activations else 1
        on_device = 0 if settings.cpu_checkpointing else settings.number_checkpoints
        inputs = on_device * outside * width // parts
    moving = offloaded_bytes(train.resolved_save_policy, model, parallel, tokens, width)
    return inputs + running * kept + max(0, everything - kept) + moving + final_norm


def activation_bytes(
    policy: SavePolicy, model: ModelConfig, parallel: ParallelConfig, tokens: int, width: int
) -> int:
    """Bytes that one fused decoder layer saves for backward on a rank, for `tokens` of sequences.

    `width` is the bytes of an element. It is exact: with `linear_outputs` on one rank, with
    d = hidden_size, k = key/value width and f = intermediate_size, (4 d + 2 k + 2 f) elements per
    token and a log-sum-exp of 4 bytes per head. Rotary tables are shared by all layers and not
    counted. Where the layer cannot be fused it is what autograd saves, whatever the policy.
    """
    if not model.is_fusable:
        return _unfused_bytes(model, parallel, tokens, width)
    return _layer_bytes(policy.saved(), model, parallel, tokens, width)


def offloaded_bytes(
    policy: SavePolicy, model: ModelConfig, parallel: ParallelConfig, tokens: int, width: int
) -> int:
    """As `activation_bytes`, for what the layer offloads to host memory."""
    if not model.is_fusable:
        return 0
    return _layer_bytes(policy.offloaded(), model, parallel, tokens, width)


def host_bytes(recipe: Recipe) -> int:
    """Pinned host memory of one rank: the offloaded activations of all layers."""
    model, train = recipe.model, recipe.train
    tokens = train.micro_batch_size * train.sequence_length
    layer = offloaded_bytes(
        train.resolved_save_policy, model, recipe.parallel, tokens, _width(recipe)
    )
    return model.num_hidden_layers * layer


def checkpoint_host_bytes(recipe: Recipe, dp_size: int) -> int:
    """Host memory of one rank for saving: a snapshot of its shard, and one full tensor.

    The snapshot, pinned, has the fp32 master weights and both moments that the rank holds; at stage
    0 the replicas divide it. The full tensor is put together for the file that the rank writes;
    of a row-parallel one, a tp rank's shard is received beside it.
    """
    model, tp = recipe.model, recipe.parallel.tp
    snapshot = 12 * math.ceil(rank_parameters(recipe) / (dp_size * recipe.parallel.sp))
    column_parallel = model.hidden_size * max(model.vocab_size, model.intermediate_size)
    row_parallel = model.hidden_size * model.intermediate_size
    if tp > 1:
        row_parallel += row_parallel // tp
    return snapshot + 4 * max(column_parallel, row_parallel)


def _layer_bytes(
    names: tuple[str, ...], model: ModelConfig, parallel: ParallelConfig, tokens: int, width: int
) -> int:
    elements = _layer_elements(model, parallel, tokens)
    heads, inside = model.num_attention_heads // parallel.tp, tokens // parallel.sp
    lse = inside * heads * max(4, width) if "lse" in names else 0
    return sum(elements[name] for name in names if name != "lse") * width + lse


def _unfused_bytes(model: ModelConfig, parallel: ParallelConfig, tokens: int, width: int) -> int:
    """What autograd saves of a layer's modules.

    Beside the activations that a fused layer can keep: the normalized inputs of both norms, before
    their weights, and of the MLP the activated gate. The norms' inputs are saved in fp32.
    """
    elements = _layer_elements(model, parallel, tokens)
    names = (
        "attn_in",
        "q",
        "k",
        "v",
        "attn_out",
        "o_in",
        "mlp_in",
        "gate",
        "gate",
        "up",
        "product",
    )
    heads, inside = model.num_attention_heads // parallel.tp, tokens // parallel.sp
    norms = (elements["x"] + elements["mid"]) * (4 + width)
    return norms + sum(elements[name] for name in names) * width + inside * heads * max(4, width)


def _layer_elements(model: ModelConfig, parallel: ParallelConfig, tokens: int) -> dict[str, int]:
    """Elements of each activation of a layer on a rank, except the log-sum-exp, which is fp32."""
    heads, kv_heads = model.num_attention_heads // parallel.tp, _rank_kv_heads(model, parallel)
    inside, outside = tokens // parallel.sp, _tokens_outside(parallel, tokens)
    d, f = model.hidden_size, model.intermediate_size // parallel.tp
    # Ulysses repeats key/value heads until they divide evenly over the ranks.
    query, key = heads * model.head_size, math.lcm(kv_heads, parallel.sp) * model.head_size
    return {
        "x": outside * d,
        "attn_normed": outside * d,
        "attn_in": inside * d,
        "q": inside * query,
        "k": inside * key,
        "v": inside * key,
        "attn_out": inside * query,
        # Without Ulysses it is attn_out itself.
        "o_in": inside * query if parallel.sp > 1 else 0,
        "mid": outside * d,
        "mlp_normed": outside * d,
        "mlp_in": inside * d,
        "gate": inside * f,
        "up": inside * f,
        "product": inside * f,
    }


def _tokens_outside(parallel: ParallelConfig, tokens: int) -> int:
    """Tokens of a rank outside the blocks, sharded by Megatron's sequence parallelism too."""
    return tokens // parallel.sp // (parallel.tp if parallel.sequence_parallel else 1)


def _rank_tokens(recipe: Recipe) -> int:
    return recipe.train.micro_batch_size * recipe.train.sequence_length // recipe.parallel.sp


def _loss_bytes(recipe: Recipe) -> int:
    """The fused output head and cross-entropy of `loss.py`.

    One chunk's logits in fp32, with a copy in the model's dtype where that is narrower; the
    gradient of the hidden states; the gradient of the head's weight, summed in fp32 and then
    converted.
    """
    model, width = recipe.model, _width(recipe)
    tokens, rows = _rank_tokens(recipe), math.ceil(model.vocab_size / recipe.parallel.tp)
    narrow_copy = width if width < 4 else 0
    chunk = min(recipe.train.loss_chunk_tokens, tokens) * rows * (4 + narrow_copy)
    return chunk + tokens * model.hidden_size * width + rows * model.hidden_size * (4 + narrow_copy)


def _width(recipe: Recipe) -> int:
    """Bytes per element of weights and activations."""
    return 2 if recipe.train.dtype == "bf16" else 4
