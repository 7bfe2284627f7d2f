"""The recipe's sections that spread a run over ranks, and what they require of the model.

Imports nothing heavy, like `config`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from llama_ds.model_config import ModelConfig, require
from llama_ds.save_policy import PRESETS, SavePolicy

OverlapChoice = Literal["auto", "on", "off"]


@dataclass(frozen=True)
class ZeroConfig:
    """What DeepSpeed's ZeRO shards over the data-parallel ranks (arXiv 1910.02054)."""

    stage: int = 1
    """0: nothing; 1: optimizer states; 2: gradients too; 3: weights too."""
    reduce_bucket_elements: int = 500_000_000
    """Gradient elements per reduce bucket: smaller saves memory, larger saves latency."""
    param_persistence_elements: int = 100_000
    """Stage 3: parameters up to this size are not sharded (norm weights, mostly)."""

    def __post_init__(self) -> None:
        require(self.stage in (0, 1, 2, 3), f"zero.stage ({self.stage}) must be 0, 1, 2 or 3")
        require(
            self.reduce_bucket_elements > 0,
            f"zero.reduce_bucket_elements ({self.reduce_bucket_elements}) must be positive",
        )
        require(
            self.param_persistence_elements >= 0,
            f"zero.param_persistence_elements ({self.param_persistence_elements}) must not be "
            "negative",
        )


@dataclass(frozen=True)
class ParallelConfig:
    """Model parallelism: how ranks share one replica; the rest of the ranks are data-parallel."""

    tp: int = 1
    """Tensor-parallel degree: shards every large matrix across ranks (within a node)."""
    sp: int = 1
    """Ulysses sequence-parallel degree: shards each sequence across ranks (long context)."""
    sequence_parallel: bool = True
    """Megatron's sequence parallelism: shards activations between the matrices across tp ranks."""
    replicate_kv_heads: bool = False
    """With fewer key/value heads than ranks, replicate each head on several ranks."""
    overlap: OverlapChoice = "auto"
    """Overlap the layers' tp and sp collectives with computation; auto: on GPUs."""
    overlap_chunks: int = 2
    """With overlap, sequence chunks of the forward pass: one is communicated, one computed."""

    def __post_init__(self) -> None:
        for name in ("tp", "sp", "overlap_chunks"):
            size = getattr(self, name)
            require(size > 0, f"parallel.{name} ({size}) must be positive")
        require(
            self.overlap in ("auto", "on", "off"),
            f"parallel.overlap ({self.overlap}) must be auto, on or off",
        )

    def require_divisible(self, model: ModelConfig, sequence_length: int) -> None:
        """ValueError where heads, matrices or the sequence do not divide over tp and sp."""
        tp, sp = self.tp, self.sp
        heads, kv_heads = model.num_attention_heads, model.num_key_value_heads
        require(
            heads % (tp * sp) == 0,
            f"model.num_attention_heads ({heads}) must be a multiple of parallel.tp ({tp}) x "
            f"parallel.sp ({sp})",
        )
        if self.replicate_kv_heads:
            require(
                kv_heads % tp == 0 or tp % kv_heads == 0,
                f"model.num_key_value_heads ({kv_heads}) and parallel.tp ({tp}): one must be a "
                "multiple of the other, also with parallel.replicate_kv_heads",
            )
        else:
            require(
                kv_heads % (tp * sp) == 0,
                f"model.num_key_value_heads ({kv_heads}) must be a multiple of parallel.tp ({tp}) "
                f"x parallel.sp ({sp}); set parallel.replicate_kv_heads to replicate heads",
            )
        require(
            model.intermediate_size % tp == 0,
            f"model.intermediate_size ({model.intermediate_size}) must be a multiple of "
            f"parallel.tp ({tp})",
        )
        require(
            model.vocab_size >= tp,
            f"model.vocab_size ({model.vocab_size}) must not be below parallel.tp ({tp})",
        )
        require(
            sequence_length % sp == 0,
            f"train.sequence_length ({sequence_length}) must be a multiple of parallel.sp ({sp})",
        )
        require(
            not self.sequence_parallel or sequence_length % (sp * tp) == 0,
            f"train.sequence_length ({sequence_length}) must be a multiple of parallel.sp ({sp}) x "
            f"parallel.tp ({tp}); or set parallel.sequence_parallel to False",
        )

    def positions_per_rank(self, sequence_length: int) -> int:
        """Length of a rank's shard of a sequence between the matrices."""
        return sequence_length // self.sp // (self.tp if self.sequence_parallel else 1)


@dataclass(frozen=True)
class ActivationCheckpointingConfig:
    """DeepSpeed's activation checkpointing, in DeepSpeed's names.

    The layers run in `number_checkpoints` groups of equal length, and only the input of each group
    is saved for backward. The backward pass recomputes a group at a time, whose layers then save
    what `train.save_policy` says. The other fields say how the inputs are stored until then.
    """

    number_checkpoints: int = 0
    """Groups; must divide the model's layers. 0 switches activation checkpointing off."""
    partition_activations: bool = False
    """Shard the saved inputs across the tp ranks; all-gathered for the backward pass."""
    cpu_checkpointing: bool = False
    """Offload the saved inputs to host memory."""
    contiguous_memory_optimization: bool = False
    """Store the saved inputs in buffers that are preallocated for all groups."""
    synchronize_checkpoint_boundary: bool = False
    """Synchronize with the device before and after each group."""
    profile: bool = False
    """Log each group's forward and backward time."""

    def __post_init__(self) -> None:
        number = self.number_checkpoints
        require(
            number >= 0,
            f"activation_checkpointing.number_checkpoints ({number}) must not be negative",
        )
        for name, value in dataclasses.asdict(self).items():
            require(
                number > 0 or not value,
                f"activation_checkpointing.{name} has no effect with "
                "activation_checkpointing.number_checkpoints (0); set it to the number of groups "
                "of layers",
            )
        for name in ("cpu_checkpointing", "contiguous_memory_optimization"):
            require(
                self.partition_activations or not getattr(self, name),
                f"activation_checkpointing.{name} needs "
                "activation_checkpointing.partition_activations: DeepSpeed fails without it",
            )

    def require_effective(
        self, num_hidden_layers: int, policy: SavePolicy, parallel: ParallelConfig
    ) -> None:
        """ValueError where DeepSpeed would train on wrong activations, or save no memory."""
        number = self.number_checkpoints
        if number == 0:
            return
        require(
            num_hidden_layers % number == 0,
            f"model.num_hidden_layers ({num_hidden_layers}) must be a multiple of "
            f"activation_checkpointing.number_checkpoints ({number})",
        )
        require(
            number < num_hidden_layers or policy != PRESETS["layer_input"],
            "train.save_policy layer_input with activation_checkpointing.number_checkpoints "
            f"({number}) equal to the number of layers recomputes every layer twice and saves no "
            "memory; set another save_policy, or fewer checkpoints",
        )
        require(
            not policy.offloaded(),
            "train.save_tensors offload with activation_checkpointing.number_checkpoints "
            f"({number}): checkpointing saves no activations inside a group, so there is nothing "
            "to offload; use one of the two",
        )
        if self.partition_activations:
            self._require_partitionable(parallel)

    def _require_partitionable(self, parallel: ParallelConfig) -> None:
        require(
            parallel.tp == 1 or not parallel.sequence_parallel,
            "activation_checkpointing.partition_activations needs inputs that are replicated over "
            f"the parallel.tp ({parallel.tp}) ranks, but parallel.sequence_parallel has sharded "
            "them already, and DeepSpeed would reassemble them wrongly; set one of the two to "
            "False",
        )
        require(
            parallel.tp > 1 or self.cpu_checkpointing or self.contiguous_memory_optimization,
            "activation_checkpointing.partition_activations shards across the parallel.tp ranks, "
            f"and has no effect with parallel.tp ({parallel.tp}); set it to False",
        )
