"""The recipe: one frozen tree of dataclasses that says everything a training run needs to know.

A recipe is written in Python (`recipes/llama.py`), overridden on the command line
(`--train.max-steps 5`), validated here and nowhere else, and stored in the run folder.
This module imports nothing heavy, so that a wrong option is reported before
torch is loaded.

Units are in the names: `*_tokens`, `*_steps`, `*_rows`; a step is one optimiser update over the
whole cluster, a row is one training sequence.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from llama_ds.model_config import ModelConfig, require
from llama_ds.save_policy import PRESETS, Choice, SavePolicy, SavePolicyName

Dtype = Literal["bf16", "fp32"]
OverlapChoice = Literal["auto", "on", "off"]
ElementwiseName = Literal["auto", "eager", "compile", "liger"]
AttentionName = Literal["auto", "math", "cpu", "flash", "cudnn", "xformers", "flash_attn"]


@dataclass(frozen=True)
class ZeroConfig:
    """What DeepSpeed's ZeRO partitions over the data-parallel ranks (arXiv 1910.02054)."""

    stage: int = 1
    """0: nothing, 1: optimiser states, 2: and gradients, 3: and parameters."""
    reduce_bucket_elements: int = 500_000_000
    """Gradient elements that are reduced together; smaller saves memory, larger saves latency."""
    param_persistence_elements: int = 100_000
    """Stage 3: parameters up to this size stay whole on every rank (norm weights, mostly)."""

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
    """How ranks share one copy of the model; the ranks that are left are data-parallel."""

    tp: int = 1
    """Tensor parallelism: ranks among which every large matrix is divided (within a node)."""
    sp: int = 1
    """Ulysses sequence parallelism: ranks among which every row is divided; for long rows."""
    sequence_parallel: bool = True
    """Divide what lies between the matrices along the sequence over the tp ranks (Megatron-LM)."""
    replicate_kv_heads: bool = False
    """Where key/value heads are fewer than the ranks, let several ranks hold the same ones."""
    overlap: OverlapChoice = "auto"
    """Send a layer's tensors while it computes, under tp and sp; auto: on GPUs."""
    overlap_chunks: int = 2
    """Parts of the sequence that an overlapped forward pass sends, each under another's matmuls."""

    def __post_init__(self) -> None:
        for name in ("tp", "sp", "overlap_chunks"):
            size = getattr(self, name)
            require(size > 0, f"parallel.{name} ({size}) must be positive")
        require(
            self.overlap in ("auto", "on", "off"),
            f"parallel.overlap ({self.overlap}) must be auto, on or off",
        )


@dataclass(frozen=True)
class ActivationCheckpointingConfig:
    """DeepSpeed's activation checkpointing, in DeepSpeed's names.

    The layers run in `number_checkpoints` groups of equal length. The input of each group is all
    that is kept of it; before its backward pass the group runs once more, and its layers then keep
    what `train.save_policy` says. The other fields say how the inputs are held until then.
    """

    number_checkpoints: int = 0
    """Groups; the model's layers must divide into them. 0 switches all of this off."""
    partition_activations: bool = False
    """Divide the inputs over the tp ranks, which gather them again for the backward pass."""
    cpu_checkpointing: bool = False
    """Keep the inputs in the host's memory."""
    contiguous_memory_optimization: bool = False
    """Keep the inputs in buffers that are made for all groups at once."""
    synchronize_checkpoint_boundary: bool = False
    """Wait for the device before and after each group."""
    profile: bool = False
    """Log the time that each group takes, forward and backward."""

    def __post_init__(self) -> None:
        number = self.number_checkpoints
        require(
            number >= 0,
            f"activation_checkpointing.number_checkpoints ({number}) must not be negative",
        )
        for name, value in dataclasses.asdict(self).items():
            require(
                number > 0 or not value,
                f"activation_checkpointing.{name} changes nothing without "
                "activation_checkpointing.number_checkpoints (0), the groups of layers",
            )
        for name in ("cpu_checkpointing", "contiguous_memory_optimization"):
            require(
                self.partition_activations or not getattr(self, name),
                f"activation_checkpointing.{name} needs "
                "activation_checkpointing.partition_activations: DeepSpeed fails without it",
            )


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with a cosine schedule; defaults are the paper's (section 2.3).

    Weight decay acts on matrices (embeddings included) and not on norm weights. The paper does not
    say; this is the convention of Megatron-LM and GPT-3 style trainers of its time.
    """

    peak_learning_rate: float
    min_learning_rate_ratio: float = 0.1
    """The cosine ends at this share of the peak."""
    warmup_steps: int = 2_000
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this global norm."""

    def __post_init__(self) -> None:
        require(
            self.peak_learning_rate > 0,
            f"optimizer.peak_learning_rate ({self.peak_learning_rate}) must be positive",
        )
        require(
            0 <= self.min_learning_rate_ratio <= 1,
            f"optimizer.min_learning_rate_ratio ({self.min_learning_rate_ratio}) must lie in "
            "[0, 1]",
        )
        require(
            self.warmup_steps >= 0,
            f"optimizer.warmup_steps ({self.warmup_steps}) must not be negative",
        )
        for name in ("beta1", "beta2"):
            value = getattr(self, name)
            require(0 <= value < 1, f"optimizer.{name} ({value}) must lie in [0, 1)")
        require(self.eps > 0, f"optimizer.eps ({self.eps}) must be positive")
        require(
            self.weight_decay >= 0,
            f"optimizer.weight_decay ({self.weight_decay}) must not be negative",
        )
        require(
            self.max_grad_norm > 0,
            f"optimizer.max_grad_norm ({self.max_grad_norm}) must be positive",
        )


@dataclass(frozen=True)
class TrainConfig:
    """The shape of a step and the length of the run."""

    sequence_length: int = 2_048
    """Tokens per row."""
    tokens_per_step: int = 4 * 1024 * 1024
    """Tokens of one optimiser step over all ranks; the paper's "4M"."""
    train_tokens: int = 1_000_000_000_000
    """Length of the run; the learning-rate schedule spans it."""
    max_steps: int | None = None
    """Length of the run in steps, in place of train_tokens."""
    stop_after_step: int | None = None
    """End this job (with a checkpoint) after this step; the schedule still spans the whole run."""
    micro_batch_size: int = 1
    """Rows that one data-parallel rank takes through the model at once."""
    dtype: Dtype = "bf16"
    """Dtype of weights in matmuls; the optimiser's states are always fp32."""
    save_policy: SavePolicyName = "linear_outputs"
    """Activations that a layer keeps for the backward pass; `save_policy.py` explains each name."""
    save_tensors: dict[str, Choice] = field(default_factory=dict)
    """Tensors of the layer to treat otherwise: keep, regather (sent again), recompute, offload."""
    mlp_tiles: int = 1
    """Parts of the sequence that the MLP works on one after another, for long rows."""
    attention: AttentionName = "auto"
    """Attention kernel; auto: PyTorch's own for the device."""
    elementwise: ElementwiseName = "auto"
    """Norms, rotary embedding and SwiGLU by PyTorch (eager), torch.compile or Liger."""
    loss_chunk_tokens: int = 1_024
    """The output head sees this many tokens at once, so that all logits never exist together."""
    seed: int = 0
    """Seeds initial weights and the order of the data."""
    log_every_steps: int = 1
    eval_every_steps: int = 500
    eval_rows: int = 512
    """Held-out rows per evaluation (or all, where the store has fewer); 0 switches it off."""
    init_from: Path | None = None
    """Hugging Face model folder to start from, in place of random weights."""

    def __post_init__(self) -> None:
        for name in (
            "sequence_length",
            "tokens_per_step",
            "train_tokens",
            "micro_batch_size",
            "mlp_tiles",
            "loss_chunk_tokens",
            "log_every_steps",
            "eval_every_steps",
        ):
            value = getattr(self, name)
            require(value > 0, f"train.{name} ({value}) must be positive")
        for name in ("max_steps", "stop_after_step"):
            steps = getattr(self, name)
            require(steps is None or steps > 0, f"train.{name} ({steps}) must be positive")
        require(self.seed >= 0, f"train.seed ({self.seed}) must not be negative")
        require(self.eval_rows >= 0, f"train.eval_rows ({self.eval_rows}) must not be negative")
        require(
            self.tokens_per_step % self.sequence_length == 0,
            f"train.tokens_per_step ({self.tokens_per_step}) must be a multiple of "
            f"train.sequence_length ({self.sequence_length})",
        )
        saved = self.saved  # refuses what contradicts itself
        if self.mlp_tiles > 1:
            saved.require_tiles_pay()

    @property
    def saved(self) -> SavePolicy:
        """`save_policy` with the choices of `save_tensors`."""
        return SavePolicy.of(self.save_policy, **self.save_tensors)

    @property
    def num_steps(self) -> int:
        """Steps of the whole run."""
        return self.max_steps or max(1, self.train_tokens // self.tokens_per_step)


@dataclass(frozen=True)
class DataConfig:
    """Where the tokens are and in which proportions they are seen."""

    store: Path
    """Token store folder, as `recipes/build_dataset.sh` or the quickstart writes it."""
    shares: dict[str, float] = field(default_factory=dict)
    """Share of each source in training; empty: in proportion to the sources' sizes."""
    epochs: dict[str, float] = field(default_factory=dict)
    """In place of shares: how often each source is seen, beside the others. A source's share is its
    epochs times its tokens, over the sum of that; a run that takes as many tokens as the sum sees
    each source just so often."""
    block_rows: int = 1_000
    """Every block of this many rows holds exactly the shares, rounded to whole rows."""
    document_masking: bool = False
    """Keep attention, and the predicted next token, inside one document."""

    def __post_init__(self) -> None:
        require(self.block_rows > 0, f"data.block_rows ({self.block_rows}) must be positive")
        require(
            not (self.shares and self.epochs),
            f"data.epochs ({self.epochs}) and data.shares ({self.shares}) both say how much of "
            "each source is seen; give one",
        )
        for option, values in (("shares", self.shares), ("epochs", self.epochs)):
            for name, value in values.items():
                require(
                    value > 0,
                    f"data.{option}: {name} ({value}) must be positive; leave it out for none",
                )


@dataclass(frozen=True)
class CheckpointConfig:
    every_steps: int = 1_000
    keep_last: int = 3
    """Older checkpoints are deleted once so many newer ones are whole; 0 keeps all."""
    keep_every: int = 0
    """Checkpoints of steps that are multiples of this stay for good; 0: none."""
    asynchronous: bool = True
    """Train on while a checkpoint is written; off: wait until it is published."""

    def __post_init__(self) -> None:
        require(
            self.every_steps > 0, f"checkpoint.every_steps ({self.every_steps}) must be positive"
        )
        require(
            self.keep_every >= 0, f"checkpoint.keep_every ({self.keep_every}) must not be negative"
        )
        require(
            self.keep_last >= 0, f"checkpoint.keep_last ({self.keep_last}) must not be negative"
        )


@dataclass(frozen=True)
class MetricsConfig:
    """JSON lines and the console are always on."""

    tensorboard: bool = True
    wandb: bool = False
    """Needs the package wandb, which is not among the requirements."""
    peak_tflops: float | None = None
    """Peak of one device for MFU; None: the published dense bf16 figure of the GPU, or, for a
    device without one, the rate of a large matmul measured at start."""

    def __post_init__(self) -> None:
        require(
            self.peak_tflops is None or self.peak_tflops > 0,
            f"metrics.peak_tflops ({self.peak_tflops}) must be positive",
        )


@dataclass(frozen=True)
class Recipe:
    """Everything that a training run needs to know."""

    name: str
    run_dir: Path
    """Checkpoints, metrics and the resolved recipe go here; an existing run is resumed."""
    model: ModelConfig
    optimizer: OptimizerConfig
    train: TrainConfig
    data: DataConfig
    parallel: ParallelConfig = ParallelConfig()
    zero: ZeroConfig = ZeroConfig()
    activation_checkpointing: ActivationCheckpointingConfig = ActivationCheckpointingConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    metrics: MetricsConfig = MetricsConfig()

    def __post_init__(self) -> None:
        require(
            self.train.sequence_length <= self.model.max_position_embeddings,
            f"train.sequence_length ({self.train.sequence_length}) must not exceed "
            f"model.max_position_embeddings ({self.model.max_position_embeddings})",
        )
        require(
            self.optimizer.warmup_steps < self.train.num_steps or self.train.max_steps is not None,
            f"optimizer.warmup_steps ({self.optimizer.warmup_steps}) must be fewer than the run's "
            f"steps ({self.train.num_steps})",
        )
        _check_parallel(self)
        _check_activation_checkpointing(self)
        require(
            not (self.data.document_masking and self.train.attention == "cudnn"),
            "train.attention cudnn cannot keep packed documents apart; set it to flash, or "
            "data.document_masking to False",
        )

    def to_json(self) -> str:
        """The resolved recipe as indented JSON, keys in declaration order."""
        return json.dumps(dataclasses.asdict(self), indent=2, default=str)


def _check_parallel(recipe: Recipe) -> None:
    """ValueError where the model or the rows do not divide, or DeepSpeed would be wrong."""
    model, parallel = recipe.model, recipe.parallel
    tp, sp = parallel.tp, parallel.sp
    heads, kv_heads = model.num_attention_heads, model.num_key_value_heads
    require(
        heads % (tp * sp) == 0,
        f"model.num_attention_heads ({heads}) must be a multiple of parallel.tp ({tp}) x "
        f"parallel.sp ({sp})",
    )
    if parallel.replicate_kv_heads:
        require(
            kv_heads % tp == 0 or tp % kv_heads == 0,
            f"model.num_key_value_heads ({kv_heads}) and parallel.tp ({tp}): one must be a "
            "multiple of the other, also with parallel.replicate_kv_heads",
        )
    else:
        require(
            kv_heads % (tp * sp) == 0,
            f"model.num_key_value_heads ({kv_heads}) must be a multiple of parallel.tp ({tp}) x "
            f"parallel.sp ({sp}); parallel.replicate_kv_heads lets ranks hold the same heads",
        )
    for name in ("intermediate_size", "vocab_size"):
        size = getattr(model, name)
        require(size % tp == 0, f"model.{name} ({size}) must be a multiple of parallel.tp ({tp})")
    length = recipe.train.sequence_length
    require(
        length % sp == 0,
        f"train.sequence_length ({length}) must be a multiple of parallel.sp ({sp})",
    )
    require(
        not parallel.sequence_parallel or length % (sp * tp) == 0,
        f"train.sequence_length ({length}) must be a multiple of parallel.sp ({sp}) x parallel.tp "
        f"({tp}), or parallel.sequence_parallel off",
    )
    positions = length // sp // (tp if parallel.sequence_parallel else 1)
    require(
        recipe.train.mlp_tiles <= positions,
        f"train.mlp_tiles ({recipe.train.mlp_tiles}) must not exceed the positions of a row that a "
        f"rank has ({positions})",
    )
    require(
        tp == 1 or recipe.zero.stage > 0 or recipe.train.dtype == "fp32",
        f"train.dtype bf16 with parallel.tp ({tp}) needs zero.stage 1, 2 or 3: at stage "
        f"{recipe.zero.stage} DeepSpeed counts only one rank's part in the gradient norm",
    )


def _check_activation_checkpointing(recipe: Recipe) -> None:
    """ValueError where DeepSpeed's checkpointing would be wrong, or would save nothing."""
    settings, parallel = recipe.activation_checkpointing, recipe.parallel
    number, num_layers = settings.number_checkpoints, recipe.model.num_hidden_layers
    if number == 0:
        return
    require(
        num_layers % number == 0,
        f"model.num_hidden_layers ({num_layers}) must be a multiple of "
        f"activation_checkpointing.number_checkpoints ({number})",
    )
    require(
        number < num_layers or recipe.train.saved != PRESETS["layer_input"],
        f"train.save_policy layer_input with activation_checkpointing.number_checkpoints ({number})"
        " for as many layers would run every layer three times and save nothing; choose another "
        "save_policy, or fewer checkpoints",
    )
    require(
        not recipe.train.saved.offloaded(),
        f"train.save_tensors offload with activation_checkpointing.number_checkpoints ({number}): "
        "a group's layers run twice, and nothing is kept of the first time; use one of the two",
    )
    if not settings.partition_activations:
        return
    require(
        parallel.tp == 1 or not parallel.sequence_parallel,
        "activation_checkpointing.partition_activations takes the inputs of layers to be alike on "
        f"the parallel.tp ({parallel.tp}) ranks, and with parallel.sequence_parallel each has "
        "another part: DeepSpeed would train on mixed-up activations. Switch one of the two off; "
        "sequence_parallel divides the inputs already",
    )
    require(
        parallel.tp > 1 or settings.cpu_checkpointing or settings.contiguous_memory_optimization,
        "activation_checkpointing.partition_activations divides over the parallel.tp ranks, and "
        f"parallel.tp ({parallel.tp}) leaves nothing to divide",
    )


def from_dict(tree: dict[str, Any]) -> Recipe:
    """The recipe that `Recipe.to_json` wrote."""
    train, data = dict(tree["train"]), dict(tree["data"])
    train["init_from"] = Path(train["init_from"]) if train["init_from"] else None
    data["store"] = Path(data["store"])
    return Recipe(
        name=tree["name"],
        run_dir=Path(tree["run_dir"]),
        model=ModelConfig(**tree["model"]),
        optimizer=OptimizerConfig(**tree["optimizer"]),
        train=TrainConfig(**train),
        data=DataConfig(**data),
        parallel=ParallelConfig(**tree["parallel"]),
        zero=ZeroConfig(**tree["zero"]),
        activation_checkpointing=ActivationCheckpointingConfig(**tree["activation_checkpointing"]),
        checkpoint=CheckpointConfig(**tree["checkpoint"]),
        metrics=MetricsConfig(**tree["metrics"]),
    )
