"""The recipe: one frozen tree of dataclasses, the complete configuration of a training run.

A recipe is written in Python (`recipes/llama.py`), overridden on the command line
(`--train.max-steps 5`), validated on construction, and stored in the run folder. Its sections
`model`, `parallel`, `zero` and `activation_checkpointing` are in `model_config.py` and
`parallel_config.py`. This module imports nothing heavy, so that a wrong option is reported before
torch is loaded.

Units are in the names: `*_tokens`, `*_steps`, `*_rows`; a step is one optimizer update with the
global batch, a row is one training sequence.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from llama_ds.batch_schedule import BatchSchedule
from llama_ds.model_config import ModelConfig, require
from llama_ds.parallel_config import ActivationCheckpointingConfig, ParallelConfig, ZeroConfig
from llama_ds.save_policy import Choice, SavePolicy, SavePolicyName
from llama_ds.skipped_data import SkippedData

Dtype = Literal["bf16", "fp32"]
StoreVerificationMode = Literal["full", "sample", "off"]
ScheduleName = Literal["cosine", "linear", "constant", "wsd"]
NewRows = Literal["refuse", "mean"]
ElementwiseName = Literal["auto", "eager", "compile", "liger"]
AttentionName = Literal["auto", "math", "cpu", "flash", "cudnn", "xformers", "flash_attn"]


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and its learning-rate schedule; defaults are the paper's (section 2.3).

    Weight decay applies to matrices (embeddings included), not to norm weights. The paper does not
    say; this is the convention of Megatron-LM and GPT-3 style trainers of its time.
    """

    peak_learning_rate: float
    min_learning_rate_ratio: float = 0.1
    """Final learning rate as a fraction of the peak."""
    warmup_steps: int = 2_000
    schedule: ScheduleName = "cosine"
    """After warmup: cosine or linear decay to the minimum at the last step, constant, or wsd
    (warmup, stable, decay): constant, then linear decay over the last `decay_steps`."""
    decay_steps: int = 0
    """Steps of wsd's decay, at the end of the run; for wsd only."""
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    max_grad_norm: float = 1.0
    """Gradient clipping: gradients are scaled down to this global norm."""
    z_loss: float = 0.0
    """Coefficient of the mean squared log-sum-exp of the logits, which is added to the loss of
    training (also in the log) and keeps logits from drifting; 1e-4 is usual. Not in held-out
    loss."""

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
        self._require_schedule()
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
        require(self.z_loss >= 0, f"optimizer.z_loss ({self.z_loss}) must not be negative")

    def _require_schedule(self) -> None:
        names = get_args(ScheduleName)
        require(
            self.schedule in names,
            f"optimizer.schedule ({self.schedule}) must be one of {', '.join(names)}",
        )
        require(
            self.decay_steps > 0 if self.schedule == "wsd" else self.decay_steps == 0,
            f"optimizer.decay_steps ({self.decay_steps}) must be positive with optimizer.schedule "
            f"wsd and 0 with all others, but optimizer.schedule is {self.schedule}; change one",
        )


@dataclass(frozen=True)
class TrainConfig:
    """Batch sizes, length of the run, numerics, and activation memory."""

    sequence_length: int = 2_048
    """Tokens per training sequence (row)."""
    tokens_per_step: int = 4 * 1024 * 1024
    """Global batch size in tokens, per optimizer step over all ranks; the paper's "4M"."""
    batch_schedule: dict[str, int] = field(default_factory=dict)
    """Other global batch sizes from a step on, in tokens: 2001 8388608 5001 16777216. Steps are
    counted from 1, and as data.skip_steps counts them."""
    train_tokens: int = 1_000_000_000_000
    """Length of the run in tokens; the learning-rate schedule spans it."""
    max_steps: int | None = None
    """Length of the run in steps, in place of train_tokens."""
    stop_after_step: int | None = None
    """End this job (with a checkpoint) after this step; the schedule still spans the whole run."""
    micro_batch_size: int = 1
    """Sequences per data-parallel rank per forward pass."""
    dtype: Dtype = "bf16"
    """Dtype of weights and activations; master weights and optimizer states are always fp32."""
    save_policy: SavePolicyName = "linear_outputs"
    """Activations that a layer saves for backward; the rest is recomputed (`save_policy.py`)."""
    save_tensors: dict[str, Choice] = field(default_factory=dict)
    """Exceptions by activation: keep, regather (all-gather again), recompute, or offload."""
    mlp_tiles: int = 1
    """Sequence tiles that the MLP is computed in, to save activation memory (long context)."""
    attention: AttentionName = "auto"
    """Attention kernel; auto: PyTorch's flash attention for the device."""
    elementwise: ElementwiseName = "auto"
    """RMSNorm, rotary embedding and SwiGLU: PyTorch (eager), torch.compile or Liger kernels."""
    loss_chunk_tokens: int = 1_024
    """Tokens per chunk of the fused output head and cross-entropy, which bounds logits memory."""
    seed: int = 0
    """Random seed of the initial weights and of the data order."""
    log_every_steps: int = 1
    eval_every_steps: int = 500
    eval_rows: int = 512
    """Validation sequences per evaluation (or all, where the store has fewer); 0: no evaluation."""
    evaluate_every_steps: int | None = None
    """Ask the paper's tasks of choices every so many steps, and at the end; None: never."""
    evaluate_tasks: str = "common-sense"
    """Names and groups with commas, as recipes/evaluate.sh takes them."""
    evaluate_data: Path | None = None
    """Folder of the tasks' files; None: the sets of the hub."""
    evaluate_limit: int = 200
    """Questions of each task."""
    init_from: Path | None = None
    """Hugging Face model folder to start from, architecture and weights; None: random weights."""
    new_rows: NewRows = "refuse"
    """With init_from and a model.vocab_size above its vocabulary: mean starts the new rows of the
    embedding and of the output head as the mean of those that there are."""
    max_skipped_steps: int = 5
    """End the run (exit code 3) after so many skipped steps in a row. A step whose loss or gradient
    norm is not finite is skipped: no update, and the schedule goes on."""
    spike_window: int = 128
    """Steps over which mean and standard deviation of loss and gradient norm are taken."""
    spike_deviations: float = 6.0
    """A step is marked as a spike from so many standard deviations above the mean on."""
    skip_spikes: bool = False
    """Skip spikes too."""
    hang_timeout_seconds: float = 480.0
    """End the job (exit code 4), with the stacks of every rank, where a micro-batch takes so long;
    0: never. Below the 10 minutes after which NCCL ends a rank that waits, without a stack."""
    rewind_to: int | None = None
    """Go back to the checkpoint of this step (0: the start), once: what came after it is set aside
    in the run folder. A job with the same rewind_to, data.skip_steps and optimizer goes on from
    there, as an automatic restart must."""
    allow_change: tuple[str, ...] = ()
    """Fields that may differ from the checkpoint that is resumed, of those that are refused
    otherwise: data.shares train.dtype ... (`resume_contract.py`)."""

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
            "evaluate_limit",
            "max_skipped_steps",
            "spike_deviations",
        ):
            value = getattr(self, name)
            require(value > 0, f"train.{name} ({value}) must be positive")
        for name in ("max_steps", "stop_after_step", "evaluate_every_steps"):
            steps = getattr(self, name)
            require(steps is None or steps > 0, f"train.{name} ({steps}) must be positive")
        require(
            self.spike_window >= 2, f"train.spike_window ({self.spike_window}) must be 2 or more"
        )
        require(
            self.rewind_to is None or self.rewind_to >= 0,
            f"train.rewind_to ({self.rewind_to}) must not be negative",
        )
        require(
            self.hang_timeout_seconds >= 0,
            f"train.hang_timeout_seconds ({self.hang_timeout_seconds}) must not be negative",
        )
        require(self.seed >= 0, f"train.seed ({self.seed}) must not be negative")
        require(self.eval_rows >= 0, f"train.eval_rows ({self.eval_rows}) must not be negative")
        for size in self.batches.sizes:
            name = "tokens_per_step" if size == self.tokens_per_step else "batch_schedule"
            require(
                size % self.sequence_length == 0,
                f"train.{name} ({size}) must be a multiple of train.sequence_length "
                f"({self.sequence_length})",
            )
        require(
            self.new_rows in get_args(NewRows),
            f"train.new_rows ({self.new_rows}) must be one of {', '.join(get_args(NewRows))}",
        )
        require(
            self.new_rows == "refuse" or self.init_from is not None,
            f"train.new_rows {self.new_rows} needs train.init_from: there are no rows otherwise",
        )
        policy = self.resolved_save_policy  # ValueError where choices contradict each other
        if self.mlp_tiles > 1:
            policy.require_tiles_save_memory()

    @property
    def resolved_save_policy(self) -> SavePolicy:
        """`save_policy` with the exceptions of `save_tensors`."""
        return SavePolicy.of(self.save_policy, **self.save_tensors)

    @property
    def batches(self) -> BatchSchedule:
        """The global batch size of every step."""
        return BatchSchedule.of(self.tokens_per_step, self.batch_schedule)

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.max_steps or max(1, self.batches.num_steps(self.train_tokens))


@dataclass(frozen=True)
class DataConfig:
    """The token store, and the mixture of its sources."""

    store: Path
    """Token store folder, as `recipes/build_dataset.sh` or the quickstart writes it."""
    shares: dict[str, float] = field(default_factory=dict)
    """Sampling proportion of each source; empty: in proportion to the sources' sizes."""
    epochs: dict[str, float] = field(default_factory=dict)
    """In place of shares: epochs of each source. A source's share is its epochs times its tokens,
    divided by the sum of that over all sources, which is also the tokens of a run that takes
    exactly these epochs."""
    block_rows: int = 1_000
    """Every block of this many sequences has exactly the shares, rounded to whole sequences."""
    skip_steps: tuple[str, ...] = ()
    """Steps of the data to pass over, 1201-1400 or 1201-1400 2010: no step trains on their rows.
    Counted from 1 and as in a run that passes over none, so that a range always means the same
    rows; the log names them."""
    document_masking: bool = False
    """Mask attention and labels across the documents packed into one sequence."""
    verify: StoreVerificationMode = "full"
    """Verification of the store's files against the checksums of its manifest. sample: 1 GiB of
    files per node before the first step, seconds on a local disk. full: also all others, in a
    background thread of lowest priority, at most 200 MiB/s per node (2.8 TB on one node: 4 hours);
    nodes that share one copy of the store share its files. A mismatch ends the run with an error
    at the next logged step or before the next checkpoint. off: sizes only."""

    def __post_init__(self) -> None:
        require(
            self.verify in ("full", "sample", "off"),
            f"data.verify ({self.verify}) must be one of full, sample, off",
        )
        SkippedData.parse(self.skip_steps)
        require(self.block_rows > 0, f"data.block_rows ({self.block_rows}) must be positive")
        require(
            not (self.shares and self.epochs),
            f"data.epochs ({self.epochs}) and data.shares ({self.shares}) both set the mixture; "
            "give one of them",
        )
        for option, values in (("shares", self.shares), ("epochs", self.epochs)):
            for name, value in values.items():
                require(
                    value > 0,
                    f"data.{option}: {name} ({value}) must be positive; leave a source out to "
                    "exclude it",
                )

    @property
    def skipped(self) -> SkippedData:
        """`skip_steps`, parsed."""
        return SkippedData.parse(self.skip_steps)


@dataclass(frozen=True)
class CheckpointConfig:
    """How often a resumable checkpoint is written, and how many are kept."""

    every_steps: int = 1_000
    keep_last: int = 3
    """Older checkpoints are deleted once so many newer ones are complete; 0 keeps all."""
    keep_every: int = 0
    """Checkpoints at multiples of this step are never deleted; 0: none."""
    asynchronous: bool = True
    """Keep training while a checkpoint is written; off: wait until it is published."""

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
    """Where metrics go beside JSON lines and the console, and what MFU is measured against."""

    tensorboard: bool = True
    wandb: bool = False
    """Needs the package wandb, which is not among the requirements."""
    peak_tflops: float | None = None
    """Peak TFLOP/s of one device for MFU; None: the GPU's data-sheet dense bf16 peak, or for other
    devices the rate of a large matmul, measured at start."""
    profile_steps: str = ""
    """A-B: profile these steps, counted from 1, on rank 0, into RUN/profiles; empty: none."""

    def __post_init__(self) -> None:
        self.profiled_steps  # noqa: B018 - ValueError where it cannot be read
        require(
            self.peak_tflops is None or self.peak_tflops > 0,
            f"metrics.peak_tflops ({self.peak_tflops}) must be positive",
        )

    @property
    def profiled_steps(self) -> tuple[int, int] | None:
        """First and last of `profile_steps`; None where none is profiled."""
        if not self.profile_steps:
            return None
        found = re.fullmatch(r"(\d+)-(\d+)", self.profile_steps)
        first, last = (int(found[1]), int(found[2])) if found else (0, 0)
        require(
            1 <= first <= last,
            f"metrics.profile_steps ({self.profile_steps}) must be two steps A-B, counted from 1, "
            "as 10-12",
        )
        return first, last


@dataclass(frozen=True)
class Recipe:
    """The complete configuration of a training run."""

    name: str
    run_dir: Path
    """Folder of checkpoints, metrics and the resolved recipe; an existing run is resumed."""
    model: ModelConfig
    optimizer: OptimizerConfig
    train: TrainConfig
    data: DataConfig
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    zero: ZeroConfig = field(default_factory=ZeroConfig)
    activation_checkpointing: ActivationCheckpointingConfig = field(
        default_factory=ActivationCheckpointingConfig
    )
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
            f"optimizer.warmup_steps ({self.optimizer.warmup_steps}) must be fewer than the steps "
            f"of the run ({self.train.num_steps}); lower it, or train longer",
        )
        self.parallel.require_divisible(self.model, self.train.sequence_length)
        self._require_dtype_and_tiles_fit_layout()
        self._require_same_frequencies_in_every_layout()
        self.activation_checkpointing.require_effective(
            self.model.num_hidden_layers, self.train.resolved_save_policy, self.parallel
        )
        require(
            not (self.data.document_masking and self.train.attention == "cudnn"),
            "train.attention cudnn does not support document masking; set it to flash, or "
            "data.document_masking to False",
        )

    def _require_same_frequencies_in_every_layout(self) -> None:
        original = self.model.rope_scaling.get("original_max_position_embeddings", 0)
        require(
            not self.data.document_masking
            or self.model.rope_scaling.get("rope_type") != "longrope"
            or self.train.sequence_length <= original,
            "data.document_masking with rope scaling longrope: positions restart in each document, "
            "and the longest document of a micro-batch would choose the frequencies of all; set "
            "data.document_masking to False, or train.sequence_length "
            f"({self.train.sequence_length}) to {original} or less",
        )

    def _require_dtype_and_tiles_fit_layout(self) -> None:
        tp, stage = self.parallel.tp, self.zero.stage
        positions = self.parallel.positions_per_rank(self.train.sequence_length)
        require(
            self.train.mlp_tiles <= positions,
            f"train.mlp_tiles ({self.train.mlp_tiles}) must not exceed the positions of a rank's "
            f"sequence shard ({positions})",
        )
        require(
            tp == 1 or stage > 0 or self.train.dtype == "fp32",
            f"train.dtype bf16 with parallel.tp ({tp}) needs zero.stage 1, 2 or 3: at stage "
            f"{stage} DeepSpeed counts only one tp rank's shard in the gradient norm",
        )

    def to_json(self) -> str:
        """The resolved recipe as indented JSON, keys in declaration order."""
        return json.dumps(dataclasses.asdict(self), indent=2, default=str)


def from_dict(tree: dict[str, Any]) -> Recipe:
    """Inverse of `Recipe.to_json`."""
    train, data = dict(tree["train"]), dict(tree["data"])
    for name in ("init_from", "evaluate_data"):
        train[name] = Path(train[name]) if train.get(name) else None
    train["allow_change"] = tuple(train.get("allow_change", ()))
    data["store"] = Path(data["store"])
    data["skip_steps"] = tuple(data.get("skip_steps", ()))
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
