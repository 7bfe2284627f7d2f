"""Memory of weights, gradients, optimizer states and communication buffers on one rank, by phase.

What DeepSpeed 0.19.8 allocates, as configured by `deepspeed_config.py` for a GPU. The scheme is
ZeRO's (arXiv 1910.02054, section 5): of the N ranks that hold the same weight shards (dp x sp),
stage 1 shards the optimizer states, stage 2 also the gradients, stage 3 also the weights. Names in
the comments are DeepSpeed's, by file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from llama_ds.config import Recipe
from llama_ds.planning.activation_memory import rank_kv_heads

STAGE_0_BUCKET = 500_000_000
"""Elements per all-reduce where DeepSpeed has no setting (its MEMORY_OPT_ALLREDUCE_SIZE)."""
ZERO3_LIVE_ELEMENTS = 1_000_000_000
"""Parameters that ZeRO-3 keeps all-gathered: its stage3_max_live_parameters, up to which it
prefetches, and stage3_max_reuse_distance, within which a module's weights stay for the next use."""
ZERO3_PREFETCH_ELEMENTS = 50_000_000
"""Parameters that ZeRO-3 all-gathers ahead (its stage3_prefetch_bucket_size)."""
ADAM_STATES = 12
"""Bytes per parameter: an fp32 master copy and Adam's two moments. Without ZeRO an fp32 weight is
its own master, which leaves 8; ZeRO's flat partition is always a copy."""


@dataclass(frozen=True)
class StateMemory:
    """Bytes at one moment of a step."""

    weights: int
    gradients: int
    optimizer_states: int
    buffers: int
    """Communication buckets and copies, and the weights that ZeRO-3 has all-gathered."""


@dataclass(frozen=True)
class StepStates:
    """The moments of a step at which memory can be at its largest, in order."""

    forward_layer: StateMemory
    """In the last layer's forward pass."""
    loss: StateMemory
    """While the loss and its gradients are computed."""
    first_backward: StateMemory
    """In the last layer's backward pass, which comes first."""
    reduced_in_backward: StateMemory
    """While gradients are reduced and `layers_left` layers keep activations."""
    layers_left: int
    last_backward: StateMemory
    """In the first layer's backward pass, which comes last: one layer keeps activations."""
    reduction: StateMemory
    """While the last gradients are reduced; no activations are left."""
    update: StateMemory


@dataclass(frozen=True)
class Offload:
    """What DeepSpeed keeps in host memory in place of the device's."""

    optimizer: bool = False
    """Master weights and moments; the optimizer runs on the host."""
    weights: bool = False
    """ZeRO-3's shards of the weights."""


NO_OFFLOAD = Offload()


@dataclass(frozen=True)
class Shard:
    """What the states of a rank depend on; sizes in parameters."""

    stage: int
    is_bf16: bool
    replicas: int
    accumulates: bool
    """Whether a step, of the largest batch, has several micro-batches."""
    bucket: int
    parameters: int
    layer: int
    matrix: int
    """A layer's largest."""
    num_layers: int
    embedding: int
    offload: Offload

    @classmethod
    def of(cls, recipe: Recipe, dp_size: int, offload: Offload) -> Shard:
        model, train, parallel = recipe.model, recipe.train, recipe.parallel
        rows = max(train.batches.sizes) // train.sequence_length
        return cls(
            stage=recipe.zero.stage,
            is_bf16=train.dtype == "bf16",
            replicas=dp_size * parallel.sp,
            accumulates=rows > dp_size * train.micro_batch_size,
            bucket=recipe.zero.reduce_bucket_elements,
            parameters=rank_parameters(recipe),
            layer=_layer_parameters(recipe),
            matrix=model.hidden_size * model.intermediate_size // parallel.tp,
            num_layers=model.num_hidden_layers,
            embedding=_embedding_parameters(recipe),
            offload=offload,
        )

    @property
    def width(self) -> int:
        return 2 if self.is_bf16 else 4

    @property
    def partition(self) -> int:
        """Parameters that ZeRO gives to one of the N ranks."""
        return math.ceil(self.parameters / self.replicas)

    @property
    def optimizer_bytes(self) -> int:
        """Of a partition's states on the device."""
        return 0 if self.offload.optimizer else self.partition * ADAM_STATES

    @property
    def gradient_bytes(self) -> int:
        """Of a partition's gradients on the device, in fp32.

        With the optimizer's states they are on the host: at once, except for stages 1 and 2 in
        bf16, whose partition is copied at the end of a step (`copy_grads_in_partition`).
        """
        is_summed_on_device = self.is_bf16 and self.stage < 3
        return 0 if self.offload.optimizer and not is_summed_on_device else self.partition * 4

    @property
    def layers_after_first_bucket(self) -> int:
        """Layers whose backward pass has not run when the first bucket of gradients is full: the
        head's gradient came first, then whole layers'."""
        elements = min(self.bucket, self.parameters) - self.embedding
        return max(0, self.num_layers - max(1, math.ceil(elements / self.layer)))


def rank_parameters(recipe: Recipe) -> int:
    """Parameters of a tp rank: its shard of every matrix with rows that pad the vocabulary, all
    norms and replicated biases."""
    model = recipe.model
    embeddings = model.num_embeddings * _embedding_parameters(recipe)
    return model.num_hidden_layers * _layer_parameters(recipe) + model.hidden_size + embeddings


def _layer_parameters(recipe: Recipe) -> int:
    model, tp = recipe.model, recipe.parallel.tp
    return model.layer_parameters(
        model.num_attention_heads // tp,
        rank_kv_heads(model, recipe.parallel),
        model.intermediate_size // tp,
    )


def _embedding_parameters(recipe: Recipe) -> int:
    return math.ceil(recipe.model.vocab_size / recipe.parallel.tp) * recipe.model.hidden_size


def step_states(recipe: Recipe, dp_size: int, offload: Offload = NO_OFFLOAD) -> StepStates:
    """The states of one rank in a step, by moment."""
    shard = Shard.of(recipe, dp_size, offload)
    if shard.stage == 0:
        return _stage_0(shard)
    if shard.stage == 1 and shard.is_bf16 and not offload.optimizer:
        return _stage_1_bf16(shard)
    if shard.stage == 3:
        return _stage_3(shard)
    return _stage_1_and_2(shard)


def _stage_0(shard: Shard) -> StepStates:
    """engine.py; in bf16 with unfused_optimizer.py, whose master weights are fp32.

    Gradients stay in the model's dtype. At the end of the step `allreduce_bucket` flattens them,
    by `STAGE_0_BUCKET`, and in bf16 converts that to fp32. `step` converts all gradients to fp32.
    """
    count, width = shard.parameters, shard.width
    bucket = min(STAGE_0_BUCKET + max(shard.embedding, shard.matrix), count)
    held = count if shard.accumulates else 0

    def at(gradients: int, buffers: int = 0) -> StateMemory:
        return StateMemory(count * width, gradients, count * (12 if shard.is_bf16 else 8), buffers)

    # The head's gradient has been computed first.
    first = (held or shard.embedding) + shard.layer
    last = held + shard.layer if held else count - shard.embedding
    return StepStates(
        forward_layer=at(held * width),
        loss=at(held * width),
        first_backward=at(first * width),
        reduced_in_backward=at(last * width),
        layers_left=0,
        last_backward=at(last * width),
        reduction=at(count * width, bucket * (6 if shard.is_bf16 else 4)),
        update=at(count * (6 if shard.is_bf16 else 4)),
    )


def _stage_1_bf16(shard: Shard) -> StepStates:
    """bf16_optimizer.py: all gradients in one fp32 tensor, which lives as long as the engine.

    A layer's bf16 gradients are converted and added to it one after another and freed
    (`bf16.immediate_grad_update`). At the end of the step `gradient_reduction.py` reduce-scatters
    it into a partition. With one replica `allreduce_no_retain` flattens it, with the norms'
    gradients, unless it is longer than `STAGE_0_BUCKET`.
    """
    count = shard.parameters

    def at(gradients: int = 0, buffers: int = 0) -> StateMemory:
        return StateMemory(count * 2, count * 4 + gradients, shard.optimizer_bytes, buffers)

    if shard.replicas > 1:
        reduced = shard.partition * 4
    else:
        reduced = count * 4 if count <= STAGE_0_BUCKET else 0
    added = at(gradients=shard.layer * 2, buffers=shard.matrix * 4)
    return StepStates(
        forward_layer=at(),
        loss=at(),
        first_backward=at(gradients=shard.layer * 2),
        reduced_in_backward=added,
        layers_left=shard.num_layers - 1,
        last_backward=added,
        reduction=at(buffers=reduced),
        update=at(),
    )


def _stage_1_and_2(shard: Shard) -> StepStates:
    """stage_1_and_2.py: gradients are copied to one of two buckets, and reduced from there.

    `setup_buckets` allocates both in full in backward, also where the model is smaller, in the
    model's dtype; a micro-batch frees them, at stage 1 the last one of a step. `allreduce_bucket`
    flattens what one rank is to get, at most its partition, and in bf16 converts it to fp32. In
    fp32 the rank's own gradients go into `grads_in_partition`, are added to those of earlier
    micro-batches, and `step` flattens them again. In bf16 they are added to one fp32 partition
    (`_build_compact_grad_partition_buffer`), which `step` takes as it is. Before, it computes the
    norm of each gradient from a copy in fp64 (`get_norm_dtype`).
    """
    count, own = shard.parameters, shard.gradient_bytes
    # Stage 1 accumulates in fp32 before it fills the buckets (in bf16 with an offloaded optimizer).
    width = 4 if shard.stage == 1 else shard.width
    buckets = shard.bucket * 2 * width
    flat = min(shard.bucket, shard.partition) * (4 if width == 4 else width + 4)
    norm = 8 * min(max(shard.embedding, shard.matrix), shard.partition)
    # Of earlier micro-batches: stage 1 reduces after the last one, and keeps its buckets so long.
    earlier = between = unreduced = 0
    if shard.accumulates and shard.stage == 1:
        earlier, between = count * 4, buckets
        unreduced = earlier - min(shard.bucket, count) * 4
    elif shard.accumulates:
        earlier = own
    # Of the rank's own, once they are reduced.
    grown = own + (earlier if shard.stage == 2 and not shard.is_bf16 else 0)
    layer = shard.layer * width
    # The embedding's gradient is the last: it waits while the bucket before it is reduced.
    last = shard.embedding * width if shard.bucket < count else 0

    def at(gradients: int, buffers: int = 0) -> StateMemory:
        return StateMemory(count * shard.width, gradients, shard.optimizer_bytes, buffers)

    return StepStates(
        forward_layer=at(earlier, between),
        loss=at(earlier, between),
        first_backward=at(earlier + layer, buckets),
        reduced_in_backward=at(grown + unreduced + layer, buckets + flat),
        layers_left=shard.layers_after_first_bucket,
        last_backward=at(grown + layer, buckets),
        reduction=at(grown + last, buckets + flat),
        update=at(own + (norm if shard.is_bf16 else max(norm, own))),
    )


def _stage_3(shard: Shard) -> StepStates:
    """stage3.py: flat shards of the weights and fp32 gradients, and a bucket in fp32, the dtype of
    communication, all for as long as the engine lives.

    `__avg_scatter_grads` interleaves the bucket's gradients in a copy, which is reduce-scattered in
    place; a gradient larger than the bucket is converted instead. `step` flattens the gradients
    again; before, it computes the norm of each from a copy in fp64.
    """
    own, width = shard.gradient_bytes, shard.width
    weights = 0 if shard.offload.weights else shard.partition * width
    filled = min(shard.bucket, shard.parameters)
    largest = max(shard.embedding, shard.matrix)
    copied = max(filled, largest) * 4
    norm = 8 * math.ceil(largest / shard.replicas)
    layer = shard.layer * width
    gathered = _gathered(shard)
    last = shard.embedding * width if shard.bucket < shard.parameters else 0

    def at(gradients: int = 0, buffers: int = 0) -> StateMemory:
        return StateMemory(
            weights, own + gradients, shard.optimizer_bytes, shard.bucket * 4 + buffers
        )

    return StepStates(
        forward_layer=at(buffers=gathered.forward_layer),
        loss=at(buffers=gathered.loss),
        first_backward=at(layer, gathered.backward),
        reduced_in_backward=at(layer, gathered.backward + copied),
        layers_left=shard.layers_after_first_bucket,
        last_backward=at(layer, gathered.backward),
        reduction=at(last, copied),
        update=at(max(own, norm)),
    )


def offloaded_state_bytes(recipe: Recipe, dp_size: int, offload: Offload) -> int:
    """Host memory of one rank for states that are not on the device.

    With the optimizer's states fp32 gradients; at stages 1 and 2 updated weights on their way to
    the device (`param_buffer_of_bit16_for_cpu_offload_groups`), at stage 3 a second copy of the
    gradients, the one that micro-batches add to (`grad_partitions_flat_buffer`).
    """
    shard = Shard.of(recipe, dp_size, offload)
    size = 0
    if offload.optimizer:
        size += ADAM_STATES + 4 + (4 if shard.stage == 3 else shard.width)
    if offload.weights:
        size += shard.width
    return shard.partition * size


@dataclass(frozen=True)
class _Gathered:
    """Bytes of the weights that ZeRO-3 has all-gathered."""

    forward_layer: int
    loss: int
    backward: int


def _gathered(shard: Shard) -> _Gathered:
    """partitioned_param_coordinator.py, partition_parameters.py.

    A layer is gathered into one flat tensor and copied from there to its weights; so is what is
    prefetched, whose flat tensor lives until its last weight is used. After the forward pass a
    module's weights stay if its next use is not farther than the reuse distance
    (`__params_to_release`): the last layers and the head. One replica gathers nothing.
    """
    if shard.replicas == 1:
        return _Gathered(0, 0, 0)
    num_kept = math.ceil((ZERO3_LIVE_ELEMENTS - shard.embedding) / shard.layer)
    kept = shard.embedding + min(max(0, num_kept), shard.num_layers) * shard.layer
    if num_kept > shard.num_layers:
        kept = shard.parameters
    prefetched = min(ZERO3_PREFETCH_ELEMENTS, max(0, ZERO3_LIVE_ELEMENTS - kept))
    flat = min(shard.parameters - shard.embedding, shard.layer + prefetched)
    turn = min(shard.parameters, kept + prefetched)
    alone = min(shard.parameters, 2 * shard.layer + prefetched)
    return _Gathered(
        forward_layer=(kept + flat) * shard.width,
        loss=turn * shard.width,
        backward=max(turn, alone) * shard.width,
    )
