"""Activation memory of a training step on one rank: layers, final norm, loss.

What the layers save for backward is exact. Of what lives only while an operation runs, the largest
tensors are counted: the layer's whose forward or backward pass is running, the final norm's and the
loss's. Compiled elementwise functions have no temporaries; of eager ones those of the norm's
backward pass count, the largest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from llama_ds.config import Recipe
from llama_ds.model_config import ModelConfig
from llama_ds.parallel_config import ParallelConfig
from llama_ds.save_policy import SavePolicy

_WIDE = ("gate", "up", "product")
_ATTENTION = ("attn_normed", "attn_in", "q", "k", "v", "attn_out", "o_in")
_MLP = ("mlp_normed", "mlp_in", *_WIDE)


def element_width(recipe: Recipe) -> int:
    """Bytes per element of weights and activations."""
    return 2 if recipe.train.dtype == "bf16" else 4


def rank_kv_heads(model: ModelConfig, parallel: ParallelConfig) -> int:
    """Key/value heads of a tp rank, which may share one."""
    return max(1, model.num_key_value_heads // parallel.tp)


@dataclass(frozen=True)
class ActivationMemory:
    """Bytes on the device, by when they live."""

    num_layers: int
    """That keep activations at once: all, or those of one recomputed group."""
    layer: int
    """What a layer saves for backward."""
    inputs: int
    """Saved inputs of checkpointed groups, and offloaded activations on the way to the host."""
    forward_layer: int
    """What the layer whose forward pass is running has beside."""
    backward_layer: int
    """What the layer whose backward pass is running has beside, its weights' gradients excluded."""
    final_norm: int
    """Saved by the final norm."""
    final_norm_backward: int
    """What the final norm's backward pass has beside."""
    head_input: int
    """The output head's input, until the loss is computed."""

    def kept(self, num_layers: int | None = None) -> int:
        """Saved by `num_layers` layers, by default by all that keep them at once."""
        return self.inputs + self.layer * (self.num_layers if num_layers is None else num_layers)


def activation_memory(recipe: Recipe) -> ActivationMemory:
    """The layers' activations; groups of `activation_checkpointing` save their input only.

    Offloaded activations are on the device for one layer more, being copied (`layer/offload.py`).
    """
    model, train, parallel = recipe.model, recipe.train, recipe.parallel
    tokens, width = train.micro_batch_size * train.sequence_length, element_width(recipe)
    policy, settings = train.resolved_save_policy, recipe.activation_checkpointing
    outside = _tokens_outside(parallel, tokens) * model.hidden_size
    inputs = offloaded_bytes(policy, model, parallel, tokens, width)
    running = model.num_hidden_layers
    if settings.number_checkpoints:
        # The inputs of the groups, and the layers of the group that is being recomputed.
        running //= settings.number_checkpoints
        parts = parallel.tp if settings.partition_activations else 1
        on_device = 0 if settings.cpu_checkpointing else settings.number_checkpoints
        inputs += on_device * outside * width // parts
    forward, backward = _running_layer(recipe, tokens)
    norm = 0
    if train.elementwise == "eager":
        # `rms_norm_backward` in fp32: the normalized input, and its products with the gradient; in
        # bf16 also copies of input and gradient, and the result.
        norm = outside * (8 if width == 4 else 18)
    inside = tokens // parallel.sp * model.hidden_size
    # Sharded by Megatron's sequence parallelism, the head's input is also all-gathered.
    gathered = inside if outside < inside else 0
    return ActivationMemory(
        num_layers=running,
        layer=activation_bytes(policy, model, parallel, tokens, width),
        inputs=inputs,
        forward_layer=forward * width,
        backward_layer=backward * width + norm,
        # Its input in fp32, and the normalized input in the model's dtype.
        final_norm=outside * (4 + width),
        # By autograd, three tensors in fp32 at a time; the gradients of input and output.
        final_norm_backward=outside * (12 + 2 * width),
        head_input=(outside + gathered) * width,
    )


def _running_layer(recipe: Recipe, tokens: int) -> tuple[int, int]:
    """Elements of a layer's forward and backward pass beside what it saves (`layer/fused.py`).

    Forward: the MLP's input and wide tensors, of one tile, and the output before and after the
    residual is added. Backward: in the MLP, which comes first, what the policy drops of it, the
    gradients of gate and up, of the MLP's input and of both ends; the wide ones of one tile. In
    attention, what the policy drops of it, the gradients of queries, keys, values, of attention's
    input and output and of both ends.
    """
    model, train, parallel = recipe.model, recipe.train, recipe.parallel
    sizes = _layer_elements(model, parallel, tokens)
    dropped = dict(sizes)
    if not model.is_fusable:
        dropped = dict.fromkeys(sizes, 0)
    for name in train.resolved_save_policy.saved():
        dropped[name] = 0
    if not parallel.sequence_parallel or parallel.tp == 1:
        # Nothing is all-gathered: the norm's output is the matrices' input.
        dropped["attn_normed"] = dropped["mlp_normed"] = 0
    tiles = train.mlp_tiles if model.is_fusable else 1
    ends = sizes["x"] + sizes["mid"]
    forward = dropped["mlp_in"] + sum(dropped[name] for name in _WIDE) // tiles + ends
    gradients = sizes["gate"] + sizes["up"]
    mlp = sum(dropped[name] for name in _MLP) + gradients + sizes["mlp_in"]
    attention = sum(dropped[name] for name in _ATTENTION) + sizes["attn_in"]
    attention += sizes["q"] + sizes["k"] + sizes["v"] + sizes["attn_out"]
    # Without the residual stream between the two, attention is recomputed before the MLP.
    recomputed = 0
    if model.is_fusable and train.resolved_save_policy.mid == "recompute":
        recomputed = sum(dropped[name] for name in ("mid", *_ATTENTION))
    return forward, ends + max(mlp // tiles + recomputed, attention)


@dataclass(frozen=True)
class LossMemory:
    """Bytes of the fused output head and cross-entropy of `loss.py`."""

    forward: int
    backward: int
    head_gradient: int
    """Of the head's weight, after the loss's backward pass."""


def loss_memory(recipe: Recipe) -> LossMemory:
    """In both passes the gradients that the forward pass computes, of hidden states and weight.

    Forward, the weight's gradient is summed in fp32. Beside it there are at most three chunks of
    logits in fp32: the chunk before, whose name is still bound, this chunk, and log-sum-exp's
    temporary; in bf16 also the matmul's output of both. Where that is more: in bf16 a chunk's
    logits in both dtypes with its term of the weight's gradient. Backward, both gradients are
    scaled in fp32, from one tensor into another.
    """
    model, width = recipe.model, element_width(recipe)
    tokens = recipe.train.micro_batch_size * recipe.train.sequence_length // recipe.parallel.sp
    rows = math.ceil(model.vocab_size / recipe.parallel.tp)
    head, chunk_tokens = rows * model.hidden_size, min(recipe.train.loss_chunk_tokens, tokens)
    chunk, narrow = chunk_tokens * rows, width if width < 4 else 0
    chunks = 12 if tokens > chunk_tokens else 8
    logits = max(chunk * chunks, chunk * (4 + narrow) + head * narrow)
    scaled = 8 if narrow else 4
    return LossMemory(
        forward=tokens * model.hidden_size * width + head * 4 + logits,
        backward=tokens * model.hidden_size * width + head * (width + scaled),
        head_gradient=head * width,
    )


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
    heads, kv_heads = model.num_attention_heads // parallel.tp, rank_kv_heads(model, parallel)
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
