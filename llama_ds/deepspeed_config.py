"""Recipe -> DeepSpeed JSON.

Every key that the training loop relies on is stated, also where DeepSpeed's default would do, so
that a new DeepSpeed cannot change a run silently. A user's own keys (`--deepspeed-json`) are merged
over the result; one that contradicts the recipe is refused, because two sources for one number
would leave the recipe stored in the run folder untrue.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

from llama_ds.batch import BatchPlan
from llama_ds.config import Recipe

# DeepSpeed key -> the recipe field that decides it.
OWNED_BY_RECIPE = {
    "train_batch_size": "train.tokens_per_step / train.sequence_length",
    "train_micro_batch_size_per_gpu": "train.micro_batch_size",
    "gradient_accumulation_steps": "train.tokens_per_step, train.micro_batch_size",
    "gradient_clipping": "optimizer.max_grad_norm",
    "bf16.enabled": "train.dtype",
    "fp16.enabled": "train.dtype",
    "zero_optimization.stage": "zero.stage",
    "zero_optimization.reduce_bucket_size": "zero.reduce_bucket_elements",
    "zero_optimization.stage3_param_persistence_threshold": "zero.param_persistence_elements",
    "optimizer.type": "optimizer",
    "optimizer.params.lr": "optimizer.peak_learning_rate",
    "optimizer.params.betas": "optimizer.beta1, optimizer.beta2",
    "optimizer.params.eps": "optimizer.eps",
    "optimizer.params.weight_decay": "optimizer.weight_decay",
    # DeepSpeed's own parallelism would act beside the recipe's: the model shards itself.
    "tensor_parallel": "parallel.tp",
    "sequence_parallel_size": "parallel.sp",
    "activation_checkpointing": "activation_checkpointing",
    "scheduler": "optimizer.warmup_steps, optimizer.min_learning_rate_ratio",
}


def deepspeed_config(recipe: Recipe, plan: BatchPlan, device_type: str) -> dict[str, Any]:
    """The DeepSpeed configuration of a run on `device_type` ("cuda" or "cpu")."""
    bf16 = recipe.train.dtype == "bf16"
    config: dict[str, Any] = {
        # DeepSpeed takes the sp ranks for data-parallel ones (see `ParallelGroups`), and this for
        # the product of the next two and their number.
        "train_batch_size": plan.rows_per_step * recipe.parallel.sp,
        "train_micro_batch_size_per_gpu": plan.micro_batch_size,
        "gradient_accumulation_steps": plan.grad_accum_steps,
        "gradient_clipping": recipe.optimizer.max_grad_norm,
        "prescale_gradients": False,
        "gradient_predivide_factor": 1.0,
        "bf16": {"enabled": bf16},
        "fp16": {"enabled": False},
        # Gradients are summed over ranks in fp32: bf16 has 8 bits, a run has thousands of terms.
        "communication_data_type": "fp32",
        "optimizer": _optimizer(recipe, device_type),
        "zero_optimization": _zero(recipe, device_type),
        "zero_allow_untested_optimizer": False,
        "checkpoint": {"tag_validation": "Fail", "load_universal": False},
        "steps_per_print": 2**31 - 1,  # metrics.py reports; DeepSpeed's own line is noise
        "wall_clock_breakdown": False,
        "dump_state": False,
    }
    if bf16 and recipe.zero.stage > 0:
        # Micro-batches accumulate in fp32. Stage 0 has no such mode in DeepSpeed 0.19.
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    if recipe.activation_checkpointing.number_checkpoints:
        config["activation_checkpointing"] = dataclasses.asdict(recipe.activation_checkpointing)
    return config


def _optimizer(recipe: Recipe, device_type: str) -> dict[str, Any]:
    settings = recipe.optimizer
    return {
        "type": "AdamW",
        "params": {
            "lr": settings.peak_learning_rate,
            "betas": [settings.beta1, settings.beta2],
            "eps": settings.eps,
            "weight_decay": settings.weight_decay,
            # torch's AdamW: no compiler needed at start, and fused on a GPU.
            "torch_adam": True,
            "fused": device_type == "cuda",
        },
    }


def _zero(recipe: Recipe, device_type: str) -> dict[str, Any]:
    zero = recipe.zero
    config: dict[str, Any] = {
        "stage": zero.stage,
        "overlap_comm": device_type == "cuda" and zero.stage > 0,
        "contiguous_gradients": True,
        "reduce_scatter": True,
        "reduce_bucket_size": zero.reduce_bucket_elements,
        "allgather_partitions": True,
        "allgather_bucket_size": zero.reduce_bucket_elements,
        "round_robin_gradients": False,
    }
    if zero.stage == 3:
        config |= {
            "stage3_param_persistence_threshold": zero.param_persistence_elements,
            "stage3_prefetch_bucket_size": 50_000_000,
            "stage3_max_live_parameters": 1_000_000_000,
            "stage3_max_reuse_distance": 1_000_000_000,
            "stage3_gather_16bit_weights_on_model_save": False,
            "sub_group_size": 1_000_000_000,
        }
    return config


def read_overrides(path: Path) -> dict[str, Any]:
    """A user's DeepSpeed JSON; ValueError where it is missing or not a JSON object."""
    try:
        overrides = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"--deepspeed-json: there is no file {path}") from None
    except ValueError as error:
        raise ValueError(f"--deepspeed-json: {path} is not valid JSON: {error}") from None
    if not isinstance(overrides, dict):
        raise ValueError(f"--deepspeed-json: {path} must hold a JSON object")
    return overrides


def merge_overrides(generated: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """`overrides` deep-merged over `generated`; ValueError for a key that the recipe decides."""
    merged = copy.deepcopy(generated)
    _merge_into(merged, overrides, prefix="")
    return merged


def _merge_into(target: dict[str, Any], overrides: dict[str, Any], prefix: str) -> None:
    for key, value in overrides.items():
        path = f"{prefix}{key}"
        if path in OWNED_BY_RECIPE and target.get(key) != value:
            raise ValueError(
                f"--deepspeed-json sets {path} to {json.dumps(value)}, but the recipe's "
                f"{OWNED_BY_RECIPE[path]} gives {json.dumps(target.get(key))}; change the recipe "
                "field"
            )
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge_into(target[key], value, prefix=f"{path}.")
        else:
            _refuse_replaced_section(target, key, path)
            target[key] = copy.deepcopy(value)


def _refuse_replaced_section(target: dict[str, Any], key: str, path: str) -> None:
    """A scalar in place of a section would drop every owned key below it."""
    if isinstance(target.get(key), dict):
        raise ValueError(
            f"--deepspeed-json sets {path} to a single value where DeepSpeed takes a section"
        )
